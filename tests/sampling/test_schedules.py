"""Schedules rise from 0; the published ones give the published signals."""

import json
from math import cos, pi
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrefine.errors import GenrefineError
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.published import CappedCosineSchedule
from genrefine.sampling.schedules import CosineSchedule, LinearSchedule, Schedule, ShiftedSchedule

GOLDENS = Path(__file__).parents[1] / "goldens"
schedules = st.recursive(
    st.just(LinearSchedule()) | st.just(CosineSchedule()) | st.floats(0.1, 1).map(CappedCosineSchedule),
    lambda inner: st.builds(ShiftedSchedule, inner, st.floats(0.05, 20)),
    max_leaves=3,
)


@given(schedules)
def test_every_schedule_starts_at_zero_never_falls_and_stays_in_range(schedule):
    signal = schedule(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert isinstance(schedule, Schedule)
    assert signal[0] == 0
    assert (signal.diff() >= 0).all()
    assert signal[-1] <= 1


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule(), ShiftedSchedule(LinearSchedule(), 3.0)])
def test_an_uncapped_schedule_ends_at_exactly_one_in_float32(schedule):
    assert schedule(torch.tensor([1.0], dtype=torch.float64)).float().item() == 1


def test_cosine_is_its_formula():
    progress = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    expected = [1 - cos(pi * s / 2) for s in progress.tolist()]
    assert CosineSchedule()(progress).tolist() == pytest.approx(expected, abs=1e-12)


@given(schedules)
def test_shift_one_changes_nothing(schedule):
    progress = torch.linspace(0, 1, 21, dtype=torch.float64)
    torch.testing.assert_close(ShiftedSchedule(schedule, 1.0)(progress), schedule(progress))


@pytest.mark.parametrize("row", json.loads((GOLDENS / "text_schedule.json").read_text())["rows"])
def test_shifted_cosine_gives_the_published_text_schedule(row):
    # There a step has progress i / (T - 1), and a shift above 1000 is written with 1000 added.
    steps, shift = row["complexity_aware_Tmax"], row["snr_shift"]
    progress = torch.tensor([min(1.0, (i + 1) / (steps - 1)) for i in range(50)], dtype=torch.float64)
    signal = ShiftedSchedule(CappedCosineSchedule(0.999), float(shift % 1000))(progress)
    assert signal.tolist() == pytest.approx(row["next_pt_nominal"], abs=1e-12)


@pytest.mark.parametrize("cap", [0.0, -0.1, 1.1, float("nan")])
def test_a_cap_outside_its_range_is_refused(cap):
    with pytest.raises(GenrefineError, match="cap"):
        CappedCosineSchedule(cap)


def test_a_shift_that_is_not_positive_is_refused():
    with pytest.raises(GenrefineError, match="shift"):
        ShiftedSchedule(LinearSchedule(), 0.0)


@pytest.mark.parametrize("row", json.loads((GOLDENS / "text_schedule.json").read_text())["rows"])
def test_the_sampler_settings_of_the_published_text_models_give_their_signals(row):
    sampler = RefinementSampler(
        num_inference_steps=row["complexity_aware_Tmax"],
        schedule="cosine",
        shift=float(row["snr_shift"] % 1000),
        published={"schedule_cap": 0.999, "final_pass": True},
    )
    settings = sampler.settings()
    progress = settings.steps.after(0.0).progress
    published = row["next_pt_nominal"][: len(progress)]
    assert settings.schedule(progress)[:50].tolist() == pytest.approx(published, abs=1e-12)
