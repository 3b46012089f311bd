"""Guidance: the published weights, one network call per step, and evaluations counted per sample."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.errors import GenrefineError
from genrefine.sampling.guidance import Guidance, GuidanceLaw, PowerCosineGuidance, apply_guidance

GOLDENS = Path(__file__).parents[1] / "goldens"
SHAPE = (2, 1, 2, 2)
INTERVALS = json.loads((GOLDENS / "guidance_intervals.json").read_text())["rows"]
with safe_open(GOLDENS / "guidance_laws.safetensors", "pt") as golden:
    LAWS = json.loads(golden.metadata()["cases"])
    TENSORS = {key: golden.get_tensor(key) for key in golden.keys()}  # noqa: SIM118


class LabelledLogits:
    """A network whose logits depend on codes, signal and label in a known way, and which counts its calls."""

    def __init__(self, num_classes=4):
        self.num_classes = num_classes
        self.rows = []

    def __call__(self, codes, signal, condition):
        self.rows.append(len(codes))
        assert len(codes) == len(signal) == len(condition)
        classes = torch.arange(self.num_classes, dtype=torch.float32)
        base = codes[..., None] * classes + signal[:, None, None, None, None, None]
        return base + (condition.labels[:, None, None, None, None, None] + 1) * classes.sin()


def random_codes(batch, seed=0):
    return torch.randint(4, (batch, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def law_of(case):
    if case["interval_min"] >= 0:
        return Guidance(case["cfg"], (case["interval_min"], case["interval_max"]))
    return PowerCosineGuidance(case["cfg"] + 1, -case["interval_min"])


@pytest.mark.parametrize("row", INTERVALS, ids=lambda row: f"{row['steps']} steps in {row['low']} .. {row['high']}")
def test_the_guided_steps_are_those_of_the_published_code(row):
    signal = (torch.arange(row["steps"], dtype=torch.float64) / row["steps"]).float()
    weight = Guidance(2.5, (row["low"], row["high"])).weight(signal)
    assert (weight != 1).int().tolist() == row["mask"]


@pytest.mark.parametrize("case", LAWS, ids=lambda case: f"case {case['case']}")
def test_weights_and_probabilities_are_those_of_the_published_code(case):
    signal = (torch.arange(case["steps"], dtype=torch.float64) / case["steps"]).float()
    assert law_of(case).weight(signal).tolist() == pytest.approx(case["effective_w"], abs=1e-5)

    def constant(codes, signal, condition):
        is_null = (condition.labels == condition.num_classes)[:, None, None, None, None, None]
        pairs = [TENSORS[name].movedim(1, -1)[:, :, None] for name in ("x_cond", "x_uncond")]
        repeats = (-(-len(codes) // 2), *[1] * 5)
        conditional, null = (logits.repeat(repeats)[: len(codes)] for logits in pairs)
        return torch.where(is_null, null, conditional)

    guided = apply_guidance(constant, ClassCondition.of([0, 1], 10), law_of(case))
    codes = torch.zeros((2, 1, 1, 2, 2), dtype=torch.int32)
    for step, t in enumerate(signal.tolist()):
        probabilities = torch.softmax(guided(codes, torch.full((2,), t)).guided / case["tau"], -1)
        torch.testing.assert_close(
            probabilities[:, :, 0], TENSORS[f"case{case['case']}.probs"][step], atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("law", [Guidance(), PowerCosineGuidance(1.0, 1.0), Guidance(1.0, (0.2, 0.8))])
def test_scale_one_is_off_and_costs_one_evaluation(law):
    network = LabelledLogits()
    condition, codes, signal = ClassCondition.of([0, 1], 3), random_codes(2), torch.tensor([0.5, 0.7])
    out = apply_guidance(network, condition, law)(codes, signal)
    assert network.rows == [2]
    assert out.num_evaluations.tolist() == [1, 1]
    assert torch.equal(out.guided, out.conditional)
    assert torch.equal(out.guided, LabelledLogits()(codes, signal, condition))


def test_guiding_is_one_doubled_call_with_the_formula_of_the_paper():
    network = LabelledLogits()
    condition, codes, signal = ClassCondition.of([0, 1], 3), random_codes(2), torch.tensor([0.5, 0.7])
    out = apply_guidance(network, condition, Guidance(2.5))(codes, signal)
    conditional, null = (LabelledLogits()(codes, signal, c) for c in (condition, condition.null()))
    assert network.rows == [4]
    assert out.num_evaluations.tolist() == [2, 2]
    assert torch.equal(out.conditional, conditional)
    torch.testing.assert_close(out.guided, null + 2.5 * (conditional - null))


signals = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6)


@given(signals)
def test_samples_outside_the_interval_are_not_in_the_unconditional_half(values):
    network, law = LabelledLogits(), Guidance(3.0, (0.3, 0.8))
    condition, codes, signal = ClassCondition.of([1] * len(values), 3), random_codes(len(values)), torch.tensor(values)
    out = apply_guidance(network, condition, law)(codes, signal)
    inside = [bool(torch.tensor(0.3) < t < torch.tensor(0.8)) for t in signal]
    assert out.num_evaluations.tolist() == [1 + guided for guided in inside]
    assert network.rows == [len(values) + sum(inside)]
    for sample, guided in enumerate(inside):
        row = slice(sample, sample + 1)
        alone = apply_guidance(LabelledLogits(), condition.select(torch.tensor([sample])), law)(codes[row], signal[row])
        assert torch.equal(alone.guided[0], out.guided[sample])
        assert torch.equal(alone.conditional[0], out.conditional[sample])
        assert guided or torch.equal(out.guided[sample], out.conditional[sample])


def test_selecting_samples_keeps_their_conditions():
    guided = apply_guidance(LabelledLogits(), ClassCondition.of([0, 1, 2], 3), Guidance(2.0))
    codes, signal, rows = random_codes(3), torch.full((3,), 0.5), torch.tensor([2, 0])
    assert len(guided.select(rows)) == 2
    assert torch.equal(guided.select(rows)(codes[rows], signal[rows]).guided, guided(codes, signal).guided[rows])


def test_power_cosine_grows_from_one_to_the_scale_and_obeys_its_interval():
    law = PowerCosineGuidance(3.0, 2.0)
    weight = law.weight(torch.linspace(0, 0.9999, 11))
    assert weight[0] == 1
    assert weight[-1] == pytest.approx(3.0, abs=1e-5)
    assert (weight.diff() >= 0).all()
    inside = PowerCosineGuidance(3.0, 2.0, (0.4, 0.6)).weight(torch.tensor([0.4, 0.5, 0.6]))
    assert inside.tolist() == [1.0, law.weight(torch.tensor([0.5])).item(), 1.0]
    assert isinstance(law, GuidanceLaw)


def test_a_class_that_is_ruled_out_stays_ruled_out_without_nan():
    conditional = torch.tensor([0.0, 1.0, -torch.inf, -torch.inf])
    null = torch.tensor([0.5, -torch.inf, 0.5, -torch.inf])

    def network(codes, signal, condition):
        is_null = (condition.labels == 1)[:, None, None, None, None, None]
        return torch.where(is_null, null, conditional).expand(*codes.shape, 4)

    out = apply_guidance(network, ClassCondition.of([0], 1), Guidance(3.0))(random_codes(1), torch.tensor([0.5]))
    assert out.guided[0, 0, 0, 0, 0].tolist() == [-1.0, 1.0, -torch.inf, -torch.inf]


def test_logits_are_float32_whatever_the_network_runs_in():
    def network(codes, signal, condition):
        return LabelledLogits()(codes, signal, condition).bfloat16()

    for law in (Guidance(), Guidance(2.0)):
        out = apply_guidance(network, ClassCondition.of([0], 3), law)(random_codes(1), torch.tensor([0.5]))
        assert out.guided.dtype == out.conditional.dtype == torch.float32


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)])
def test_an_interval_out_of_range_is_refused(interval):
    for make in (lambda i: Guidance(2.0, i), lambda i: PowerCosineGuidance(2.0, 1.0, i)):
        with pytest.raises(GenrefineError, match="guidance_interval"):
            make(interval)


def test_scales_and_powers_must_be_numbers():
    with pytest.raises(GenrefineError, match="guidance_scale"):
        Guidance(float("inf"))
    with pytest.raises(GenrefineError, match="power"):
        PowerCosineGuidance(2.0, 0.0)
