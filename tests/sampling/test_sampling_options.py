"""The one declaration of the sampling options, the objects they stand for, and back to a record."""

import inspect
import json
from dataclasses import fields

import numpy as np
import pytest

from genrefine.errors import GenrefineError
from genrefine.sampling.budgets import EntropySteps, FixedSteps
from genrefine.sampling.guidance import Guidance, PowerCosineGuidance
from genrefine.sampling.kernels import ExactKernel, RefreshKernel, RefreshThenExactKernel
from genrefine.sampling.options import OPTIONS, SamplingOptions, with_options
from genrefine.sampling.schedules import CosineSchedule, LinearSchedule, ShiftedSchedule
from genrefine.sampling.settings import SamplingSettings

BUDGET = {"warmup": 5, "slope": 700, "offset": -620, "min_steps": 20, "max_steps": 50}


def build(entropy_steps=None, **values):
    return SamplingSettings.of(SamplingOptions.of(values), entropy_steps)


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
    assert build(shift=2).schedule == ShiftedSchedule(LinearSchedule(), 2.0)
    assert build(kernel="exact").kernel == ExactKernel()
    assert build(kernel="refresh-then-exact", kernel_switch=0.4).kernel == RefreshThenExactKernel(0.4)
    assert build(temperature=1.31).temperature == 1.31


@pytest.mark.parametrize(
    "values",
    [
        {"num_inference_steps": 0},
        {"adaptive": 1},
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
        {"temperature": "1"},
        {"guidance_interval": "01"},
        {"num_inference_steps": True},
        {"schedule": "quadratic"},
        {"schedule": ["linear"]},
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
        "steps": {"type": "FixedSteps", "num_steps": 50},
        "guidance": {"type": "Guidance", "scale": 2.0, "interval": [0.0, 1.0]},
        "schedule": {"type": "ShiftedSchedule", "inner": {"type": "LinearSchedule"}, "shift": 2.0},
        "kernel": {"type": "RefreshThenExactKernel", "switch": 0.4},
        "temperature": 1.0,
        "signal": {"type": "ScheduledSignal"},
        "final_latents": "drawn",
    }


def test_there_are_eleven_options_and_each_explains_itself():
    assert len(OPTIONS) == 11
    for option in fields(SamplingOptions):
        assert len(option.metadata["help"]) > 20, option.name
        assert (option.metadata["metavar"] is None) == (option.type is bool), option.name


def test_a_call_overrides_what_is_saved_and_takes_along_what_belongs_to_another_choice():
    saved = SamplingOptions(kernel="refresh-then-exact", kernel_switch=0.4, adaptive=True, num_inference_steps=9)
    assert saved.override(dict.fromkeys(OPTIONS)) == saved
    assert saved.override({"kernel": "exact"}).kernel_switch is None
    assert saved.override({"kernel": "exact", "kernel_switch": 0.2}).kernel_switch == 0.2  # which is then refused
    assert saved.override({"kernel_switch": 0.2}).kernel == "refresh-then-exact"
    assert not saved.override({"num_inference_steps": 3}).adaptive
    fixed = saved.override({"adaptive": False})
    assert (fixed.adaptive, fixed.num_inference_steps) == (False, 9)
    with pytest.raises(GenrefineError, match="drop adaptive or num_inference_steps"):
        saved.override({"adaptive": True, "num_inference_steps": 3})
    with pytest.raises(GenrefineError, match=r"SamplingOptions settings are .*; got cfg"):
        saved.override({"cfg": 1})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"num_inference_steps": 3},
        {"adaptive": True},
        {"kernel": "exact", "guidance_interval": (0.1, 0.9)},
        {"guidance_power": 2.0, "schedule": "cosine"},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_adaptive", [False, True])
def test_the_arguments_of_a_call_are_json_and_repeat_it(given, is_adaptive):
    saved = SamplingOptions(kernel="refresh-then-exact", kernel_switch=0.4, adaptive=is_adaptive, shift=2.0)
    options = saved.override(given)
    again = saved.override(json.loads(json.dumps(options.arguments())))
    assert SamplingSettings.of(again, BUDGET) == SamplingSettings.of(options, BUDGET)
    assert ("adaptive" in options.arguments()) != ("num_inference_steps" in options.arguments())


def test_a_signature_shows_the_options_in_place_of_the_collected_ones():
    @with_options
    def call(prompt, *, seed=None, **sampling):
        return sampling

    shown = inspect.signature(call).parameters
    assert list(shown) == ["prompt", "seed", "preset", *OPTIONS]
    assert all(shown[name].default is None for name in OPTIONS)
    assert call("dog", shift=2) == {"shift": 2}


def test_numbers_of_other_libraries_are_numbers():
    options = SamplingOptions.of({"num_inference_steps": np.int64(7), "guidance_scale": np.float32(2), "shift": 3})
    assert options == SamplingOptions(num_inference_steps=7, guidance_scale=2.0, shift=3.0)
    assert [type(value) for value in (options.num_inference_steps, options.guidance_scale, options.shift)] == [
        int,
        float,
        float,
    ]
