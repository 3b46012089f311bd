"""From the plain values of a configuration to the objects that sample, and back to a record."""

import json

import pytest

from genrefine.errors import GenrefineError
from genrefine.sampling.budgets import EntropySteps, FixedSteps
from genrefine.sampling.guidance import Guidance, PowerCosineGuidance
from genrefine.sampling.kernels import ExactKernel, RefreshKernel, RefreshThenExactKernel
from genrefine.sampling.options import SamplingSettings
from genrefine.sampling.schedules import CosineSchedule, LinearSchedule, ShiftedSchedule

NEUTRAL = {
    "num_inference_steps": 50,
    "guidance_scale": 1.0,
    "guidance_interval": (0.0, 1.0),
    "guidance_power": None,
    "temperature": 1.0,
    "schedule": "linear",
    "shift": 1.0,
    "kernel": "refresh",
    "kernel_switch": None,
    "entropy_steps": None,
    "schedule_cap": 1.0,
    "final_pass": False,
    "guidance_interval_closed": False,
    "schedule_steps": None,
    "signal": "nominal",
    "stop_at": 1.0,
}
BUDGET = {"warmup": 5, "slope": 700, "offset": -620, "min_steps": 20, "max_steps": 50}


def build(adaptive=False, **values):
    return SamplingSettings.from_values(NEUTRAL | values, adaptive)


def test_neutral_values_are_the_defaults_of_the_settings():
    assert build() == SamplingSettings()
    assert SamplingSettings() == SamplingSettings(
        FixedSteps(50), Guidance(1.0, (0.0, 1.0)), LinearSchedule(), RefreshKernel(), 1.0
    )


def test_every_value_reaches_its_object():
    assert build(num_inference_steps=7).steps == FixedSteps(7)
    assert build(adaptive=True, entropy_steps=BUDGET).steps == EntropySteps(5, 700.0, -620.0, 20, 50)
    assert build(guidance_scale=2, guidance_interval=[0.2, 1]).guidance == Guidance(2.0, (0.2, 1.0))
    assert build(guidance_scale=2, guidance_power=3).guidance == PowerCosineGuidance(2.0, 3.0)
    assert build(schedule="cosine").schedule == CosineSchedule()
    assert build(schedule="cosine", schedule_cap=0.95).schedule == CosineSchedule(0.95)
    assert build(final_pass=True).steps == FixedSteps(50, final_pass=True)
    assert build(schedule_steps=20).steps == FixedSteps(50, schedule_steps=20)
    assert build(guidance_scale=2, guidance_interval_closed=True).guidance == Guidance(2.0, closed=True)
    power = build(guidance_scale=2, guidance_power=3, guidance_interval_closed=True).guidance
    assert power == PowerCosineGuidance(2.0, 3.0, closed=True)
    assert (build(signal="realized").signal, build(stop_at=0.98).stop_at) == ("realized", 0.98)
    assert build(adaptive=True, entropy_steps=BUDGET, final_pass=True).steps.final_pass
    assert build(shift=2).schedule == ShiftedSchedule(LinearSchedule(), 2.0)
    assert build(kernel="exact").kernel == ExactKernel()
    assert build(kernel="refresh-then-exact", kernel_switch=0.4).kernel == RefreshThenExactKernel(0.4)
    assert build(temperature=1.31).temperature == 1.31


@pytest.mark.parametrize(
    "values",
    [
        {"num_inference_steps": 0},
        {"num_inference_steps": "ten"},
        {"num_inference_steps": 2.5},
        {"guidance_scale": "strong"},
        {"guidance_scale": float("nan")},
        {"guidance_interval": (0.5, 0.4)},
        {"guidance_interval": 0.4},
        {"guidance_interval": (0.1, 0.2, 0.3)},
        {"guidance_power": -1.0},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"temperature": None},
        {"schedule": "quadratic"},
        {"schedule": ["linear"]},
        {"schedule_cap": 0.95},
        {"schedule": "cosine", "schedule_cap": 1.5},
        {"final_pass": 1},
        {"guidance_interval_closed": 1},
        {"schedule_steps": 0},
        {"signal": "actual"},
        {"signal": "realized", "kernel": "exact"},
        {"stop_at": 0.0},
        {"stop_at": 1.1},
        {"shift": 0.0},
        {"kernel": "fresh"},
        {"kernel": "refresh-then-exact"},
        {"kernel": "exact", "kernel_switch": 0.5},
        {"kernel": "refresh-then-exact", "kernel_switch": 1.5},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_in_one_line(values):
    with pytest.raises(GenrefineError) as error:
        build(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "budget",
    [None, {}, {"warmup": 5}, BUDGET | {"speed": 1}, BUDGET | {"min_steps": 5}, BUDGET | {"slope": "steep"}, 5],
)
def test_adaptive_needs_a_whole_and_valid_budget(budget):
    with pytest.raises(GenrefineError) as error:
        build(adaptive=True, entropy_steps=budget)
    assert "\n" not in str(error.value)


def test_a_description_is_json_and_names_everything():
    settings = build(guidance_scale=2.0, shift=2.0, kernel="refresh-then-exact", kernel_switch=0.4)
    assert json.loads(json.dumps(settings.describe())) == {
        "steps": {"type": "FixedSteps", "num_steps": 50, "final_pass": False, "schedule_steps": None},
        "guidance": {"type": "Guidance", "scale": 2.0, "interval": [0.0, 1.0], "closed": False},
        "schedule": {"type": "ShiftedSchedule", "inner": {"type": "LinearSchedule"}, "shift": 2.0},
        "kernel": {"type": "RefreshThenExactKernel", "switch": 0.4},
        "temperature": 1.0,
        "signal": "nominal",
        "stop_at": 1.0,
    }
