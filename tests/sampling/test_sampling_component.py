"""The sampler as a component: saved and loaded beside a pipeline, strict about what it is told."""

import inspect
import json
from dataclasses import asdict

import pytest
from diffusers import DiffusionPipeline

from genrefine.errors import GenrefineError
from genrefine.sampling.budgets import EntropySteps, FixedSteps
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.guidance import Guidance
from genrefine.sampling.kernels import ExactKernel, RefreshKernel, RefreshThenExactKernel
from genrefine.sampling.options import OPTIONS, SamplingOptions
from genrefine.sampling.schedules import CosineSchedule
from genrefine.sampling.settings import SamplingSettings

BUDGET = EntropySteps(5, 700.0, -620.0, 20, 50, 0.5)
CONFIG = {
    "num_inference_steps": 24,
    "guidance_scale": 2.35,
    "guidance_interval": (0.44, 1.0),
    "temperature": 1.31,
    "schedule": "cosine",
    "shift": 2.0,
    "kernel": "refresh-then-exact",
    "kernel_switch": 0.7,
}


class SamplerOnly(DiffusionPipeline):
    def __init__(self, sampler: RefinementSampler) -> None:
        super().__init__()
        self.register_modules(sampler=sampler)


def test_a_pipeline_saves_and_loads_its_sampler_with_everything(tmp_path):
    sampler = RefinementSampler(**CONFIG).calibrated(BUDGET)
    SamplerOnly(sampler).save_pretrained(tmp_path)
    assert (tmp_path / "sampler" / "scheduler_config.json").exists()
    loaded = SamplerOnly.from_pretrained(tmp_path).sampler
    assert type(loaded) is RefinementSampler
    assert loaded.settings() == sampler.settings()
    assert loaded.settings(adaptive=True) == sampler.settings(adaptive=True)
    assert loaded.settings(adaptive=True).steps == BUDGET


def test_calibration_changes_the_budget_and_nothing_else():
    sampler = RefinementSampler(**CONFIG)
    calibrated = sampler.calibrated(BUDGET)
    assert not sampler.is_calibrated
    assert calibrated.is_calibrated
    assert calibrated.settings() == sampler.settings()
    assert calibrated.settings(adaptive=True).steps == BUDGET
    again = calibrated.calibrated(EntropySteps(2, 1.0, 0.0, 3, 9))
    assert again.settings(adaptive=True).steps.max_steps == 9


@pytest.mark.parametrize("key", ["num_steps", "guidance", "cfg", "beta_start"])
def test_an_unknown_key_in_the_configuration_is_refused(tmp_path, key):
    RefinementSampler().save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 1}))
    with pytest.raises(GenrefineError, match=key):
        RefinementSampler.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"num_inference_steps": 0},
        {"temperature": 0.0},
        {"kernel": "best"},
        {"guidance_interval": [0.5, 0.1]},
        {"entropy_steps": {"warmup": 5}},
        {"entropy_steps": {"warmup": 5, "slope": 1, "offset": 0, "min_steps": 4, "max_steps": 50}},
        {"kernel_switch": 0.5},
    ],
    ids=str,
)
def test_a_wrong_value_in_the_configuration_is_refused_on_loading(tmp_path, change):
    RefinementSampler().save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(GenrefineError):
        RefinementSampler.from_pretrained(tmp_path)


def test_a_call_overrides_the_saved_defaults_and_none_leaves_them():
    sampler = RefinementSampler(**CONFIG)
    settings = sampler.settings(num_inference_steps=3, guidance_scale=1.5, temperature=None)
    assert settings.steps == FixedSteps(3)
    assert settings.guidance == Guidance(1.5, (0.44, 1.0))
    assert settings.temperature == 1.31
    assert sampler.settings().steps == FixedSteps(24)
    assert sampler.settings(shift=1.0).schedule == CosineSchedule()


def test_the_saved_switch_goes_with_the_saved_kernel_only():
    sampler = RefinementSampler(**CONFIG)
    assert sampler.settings().kernel == RefreshThenExactKernel(0.7)
    assert sampler.settings(kernel_switch=0.2).kernel == RefreshThenExactKernel(0.2)
    assert sampler.settings(kernel="refresh").kernel == RefreshKernel()
    assert sampler.settings(kernel="exact").kernel == ExactKernel()
    with pytest.raises(GenrefineError, match="kernel_switch"):
        sampler.settings(kernel="exact", kernel_switch=0.2)
    with pytest.raises(GenrefineError, match="kernel_switch"):
        RefinementSampler().settings(kernel_switch=0.2)


def test_adaptive_sampling_needs_a_calibrated_model_and_no_number_of_steps():
    with pytest.raises(GenrefineError, match="calibrate"):
        RefinementSampler().settings(adaptive=True)
    with pytest.raises(GenrefineError, match="drop adaptive or num_inference_steps"):
        RefinementSampler().calibrated(BUDGET).settings(adaptive=True, num_inference_steps=5)


@pytest.mark.parametrize("name", ["steps", "entropy_steps", "schedule_cap", "cfg"])
def test_an_unknown_override_is_refused(name):
    with pytest.raises(GenrefineError, match=name):
        RefinementSampler().settings(**{name: None})


def test_a_model_may_save_that_it_is_adaptive():
    sampler = RefinementSampler(adaptive=True, entropy_steps=asdict(BUDGET))
    assert sampler.settings().steps == BUDGET
    assert sampler.settings(adaptive=False).steps == FixedSteps(50)
    assert sampler.settings(num_inference_steps=7).steps == FixedSteps(7)
    with pytest.raises(GenrefineError, match="calibrated"):
        RefinementSampler(adaptive=True)


def test_the_neutral_configuration_guides_nothing_and_changes_nothing():
    assert RefinementSampler().settings() == SamplingSettings()


def test_the_arguments_of_the_sampler_are_the_options():
    shown = inspect.signature(RefinementSampler.__init__).parameters
    assert set(shown) == {"self", "entropy_steps", "presets", "published", *OPTIONS}
    saved = {name: value for name, value in RefinementSampler().config.items() if name in OPTIONS}
    assert SamplingOptions(**saved) == SamplingOptions()


PRESETS = {"fast": {"num_inference_steps": 8, "final_latents": "expected"}, "sure": {"adaptive": True}}


def test_a_preset_takes_the_place_of_what_is_saved_and_a_call_comes_on_top():
    sampler = RefinementSampler(**CONFIG, presets=PRESETS, entropy_steps=asdict(BUDGET)).calibrated(BUDGET)
    assert sampler.presets == ["fast", "sure"]
    fast = sampler.settings(preset="fast")
    assert (fast.steps, fast.final_latents, fast.temperature) == (FixedSteps(8), "expected", 1.31)
    assert sampler.settings(preset="fast", num_inference_steps=3).steps == FixedSteps(3)
    assert sampler.settings(preset="fast", temperature=0.5).temperature == 0.5
    assert sampler.settings(preset="sure").steps == BUDGET
    assert sampler.settings(preset="sure", num_inference_steps=3).steps == FixedSteps(3)
    assert sampler.settings(preset=None) == sampler.settings()
    assert "preset" not in sampler.options(preset="fast").arguments()


def test_presets_are_saved_and_loaded(tmp_path):
    RefinementSampler(presets=PRESETS, entropy_steps=asdict(BUDGET)).save_pretrained(tmp_path)
    loaded = RefinementSampler.from_pretrained(tmp_path)
    assert loaded.settings(preset="fast").steps == FixedSteps(8)
    assert RefinementSampler().presets == []


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        ({"fast": {"num_steps": 3}}, "num_steps"),
        ({"fast": {"temperature": 0.0}}, "temperature must be"),
        ({"fast": 8}, "must hold sampling options by name; got 8 for 'fast'"),
        ({"sure": {"adaptive": True}}, "needs a calibrated model"),
        ({"fast": {"preset": "fast"}}, "preset"),
    ],
)
def test_presets_that_cannot_be_taken_are_refused_when_they_are_saved(presets, message):
    with pytest.raises(GenrefineError, match=message):
        RefinementSampler(presets=presets)


def test_a_preset_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(GenrefineError, match="no sampling preset 'slow'; its presets are fast, sure"):
        RefinementSampler(presets=PRESETS, entropy_steps=asdict(BUDGET)).settings(preset="slow")
    with pytest.raises(GenrefineError, match="no sampling preset 'fast'; it has none"):
        RefinementSampler().settings(preset="fast")
