"""What converted text models save of their programs: never an option of a call, and read from folders of 0.1.0."""

import json
from dataclasses import asdict

import pytest
import torch

from genrefine.errors import GenrefineError
from genrefine.sampling.budgets import EntropySteps, FixedSteps
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.guidance import Guidance, PowerCosineGuidance
from genrefine.sampling.published import (
    CappedCosineSchedule,
    ClosedGuidance,
    PassingEntropySteps,
    PublishedLaws,
    RealizedSignal,
    SpreadSteps,
    with_published,
)
from genrefine.sampling.schedules import CosineSchedule, LinearSchedule, ShiftedSchedule
from genrefine.sampling.settings import ScheduledSignal

BUDGET = EntropySteps(5, 700.0, -620.0, 20, 50, 0.5)
JUNE = {
    "schedule_cap": 0.95,
    "schedule_steps": 20,
    "final_pass": True,
    "closed_interval": True,
    "realized_signal": True,
    "stop_at": 0.98,
}
OLD_OPTIONS = {
    "schedule_cap": 0.95,
    "schedule_steps": 20,
    "final_pass": True,
    "guidance_interval_closed": True,
    "signal": "realized",
    "stop_at": 0.98,
}
OLD_NEUTRAL = {
    "schedule_cap": 1.0,
    "schedule_steps": None,
    "final_pass": False,
    "guidance_interval_closed": False,
    "signal": "nominal",
    "stop_at": 1.0,
}


def june(**values):
    return RefinementSampler(**{"schedule": "cosine", "guidance_scale": 3.0, "published": JUNE} | values)


def test_the_laws_of_a_program_reach_the_settings():
    settings = june(num_inference_steps=9, shift=2.0).settings()
    assert settings.steps == SpreadSteps(9, final_pass=True, schedule_steps=20)
    assert settings.guidance == ClosedGuidance(3.0)
    assert settings.schedule == ShiftedSchedule(CappedCosineSchedule(0.95), 2.0)
    assert settings.signal == RealizedSignal(0.98)


def test_a_call_that_chooses_otherwise_leaves_the_law_of_what_was_saved():
    sampler = june(num_inference_steps=9)
    assert sampler.settings(num_inference_steps=7).steps == SpreadSteps(7, final_pass=True)
    assert sampler.settings(num_inference_steps=9).steps == SpreadSteps(9, final_pass=True, schedule_steps=20)
    assert sampler.settings(schedule="linear").schedule == LinearSchedule()
    assert sampler.settings(kernel="exact").signal == RealizedSignal(0.98, is_realized=False)
    assert sampler.settings(guidance_power=2.0).guidance == PowerCosineGuidance(3.0, 2.0)


def test_the_arguments_of_a_call_repeat_it_on_a_converted_model():
    sampler = june(num_inference_steps=9)
    assert sampler.settings(**sampler.options().arguments()) == sampler.settings()


def test_no_law_changes_nothing():
    assert PublishedLaws().values() == {}
    assert RefinementSampler(published={}).settings() == RefinementSampler().settings()
    assert RefinementSampler(published={"stop_at": 0.9}).settings().signal == RealizedSignal(0.9, is_realized=False)
    assert RefinementSampler(published={"closed_interval": True}).settings().signal == ScheduledSignal()


def test_a_budget_has_the_passes_of_the_program():
    passing = june().calibrated(BUDGET).settings(adaptive=True).steps
    assert passing == PassingEntropySteps(**asdict(BUDGET), final_pass=True)
    extra = RefinementSampler(published={"extra_pass": True, "nominal_steps": 50}, entropy_steps=asdict(BUDGET))
    assert extra.settings(adaptive=True).steps == PassingEntropySteps(
        **asdict(BUDGET), extra_pass=True, nominal_steps=50
    )
    assert extra.settings().steps == FixedSteps(50)


@pytest.mark.parametrize(
    "laws",
    [
        {"schedule_cap": 0.0},
        {"schedule_cap": 1.5},
        {"schedule_cap": "high"},
        {"schedule_cap": 0.95, "schedule": "linear"},
        {"final_pass": 1},
        {"closed_interval": "yes"},
        {"schedule_steps": 0},
        {"realized_signal": True, "kernel": "exact"},
        {"stop_at": 0.0},
        {"stop_at": 1.1},
        {"cap": 1.0},
    ],
    ids=str,
)
def test_a_law_out_of_range_is_refused_in_one_line(laws):
    options = {name: laws[name] for name in ("schedule", "kernel") if name in laws}
    laws = {name: value for name, value in laws.items() if name not in options}
    with pytest.raises(GenrefineError) as error:
        RefinementSampler(**{"schedule": "cosine", **options, "published": laws})
    assert "\n" not in str(error.value)


def test_final_and_extra_pass_exclude_each_other():
    with pytest.raises(GenrefineError, match="choose one"):
        RefinementSampler(published={"final_pass": True, "extra_pass": True}, entropy_steps=asdict(BUDGET))


def test_a_configuration_of_version_0_1_0_means_what_it_meant(tmp_path):
    june(num_inference_steps=9, entropy_steps=asdict(BUDGET)).save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    saved = json.loads(path.read_text())
    del saved["published"], saved["adaptive"]
    saved["entropy_steps"] |= {"extra_pass": False, "nominal_steps": None}
    path.write_text(json.dumps(saved | OLD_OPTIONS))
    loaded = RefinementSampler.from_pretrained(tmp_path)
    assert loaded.config["published"] == JUNE
    assert loaded.settings() == june(num_inference_steps=9).settings()
    path.write_text(json.dumps(saved | OLD_NEUTRAL))
    loaded = RefinementSampler.from_pretrained(tmp_path)
    assert loaded.config["published"] is None
    assert loaded.settings(adaptive=True).steps == BUDGET
    saved["entropy_steps"] |= {"extra_pass": True, "nominal_steps": 40}
    path.write_text(json.dumps(saved | OLD_NEUTRAL))
    extra = RefinementSampler.from_pretrained(tmp_path).settings(adaptive=True).steps
    assert extra == PassingEntropySteps(**asdict(BUDGET), extra_pass=True, nominal_steps=40)


@pytest.mark.parametrize("change", [{"signal": "actual"}, {"stop_at": 0.0}, {"final_pass": "no"}], ids=str)
def test_a_wrong_value_in_an_old_configuration_is_refused(change):
    with pytest.raises(GenrefineError):
        RefinementSampler.from_config({**OLD_NEUTRAL, **change})


def test_reading_an_old_configuration_leaves_the_caller_his_own():
    config = {**OLD_OPTIONS, "entropy_steps": {"extra_pass": True}}
    with_published(config)
    assert config == {**OLD_OPTIONS, "entropy_steps": {"extra_pass": True}}


def test_a_closed_interval_guides_at_both_ends():
    signal = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
    assert ClosedGuidance(3.0, (0.2, 0.8)).weight(signal).tolist() == [1, 3, 3, 3, 1]
    assert Guidance(3.0, (0.2, 0.8)).weight(signal).tolist() == [1, 1, 3, 1, 1]
    assert ClosedGuidance(3.0).weight(signal).tolist() == [3] * 5


def test_a_capped_cosine_is_the_cosine_times_its_cap():
    progress = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.equal(CappedCosineSchedule(0.95)(progress), 0.95 * CosineSchedule()(progress))


def test_a_realized_signal_is_the_held_share_and_stops():
    held = torch.tensor([[True, True, False, False], [True, True, True, True]]).reshape(2, 4, 1, 1, 1)
    rule = RealizedSignal(0.9)
    told = rule.after(torch.tensor([0.1, 0.2]), held)
    assert told.tolist() == [0.5, 1.0]
    assert rule.ends(told).tolist() == [False, True]
    assert RealizedSignal(0.9, is_realized=False).after(torch.tensor([0.1]), held[:1]).tolist() == pytest.approx([0.1])
