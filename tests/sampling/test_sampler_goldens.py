"""Runs of the published class-to-image sampler, replayed: the same draws must give the same codes at every step.

The recordings hold the published network's logits at some steps and its sampled labels at all of them; where there
are no logits the replay makes the recorded label certain. `sampling_interval` is the linear schedule,
`sampling_cosine` the cosine, `sampling_entropy` the entropy-guided budget with its cooler temperature for easy
samples; it holds the network's weights, too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.convert.class_refiner import class_refiner_from_weights
from genrefine.sampling.budgets import EntropySteps, FixedSteps
from genrefine.sampling.guidance import Guidance, apply_guidance
from genrefine.sampling.records import collect
from genrefine.sampling.sampler import refine
from genrefine.sampling.schedules import CosineSchedule, LinearSchedule
from genrefine.sampling.settings import SamplingSettings

GOLDENS = Path(__file__).parents[1] / "goldens"


class Recording:
    def __init__(self, name):
        with safe_open(GOLDENS / f"{name}.safetensors", "pt") as golden:
            self.tensors = {key: golden.get_tensor(key) for key in golden.keys()}  # noqa: SIM118
            self.facts = golden.metadata()

    def __getitem__(self, key):
        return self.tensors[key]

    @property
    def num_samples(self):
        return len(self["draw.rand_labels"])

    @property
    def num_classes(self):
        return int(self.facts["classes"])

    @property
    def shape(self):
        channels, height, width = self["draw.rand_labels"].shape[1:]
        return channels, 1, height, width

    def logits(self, step):
        """Return (conditional, unconditional) logits of a step, classes last and with a frame axis."""
        if f"step.x_cond{step}" in self.tensors:
            pair = [self[f"step.x_{branch}{step}"] for branch in ("cond", "uncond")]
            return [logits.movedim(1, -1).unsqueeze(2) for logits in pair]
        labels = self["step.pred_labels"][step].long().unsqueeze(2)
        certain = torch.nn.functional.one_hot(labels, self.num_classes) * 1e4
        return [certain, certain]

    def settings(self):
        facts, interval = self.facts, json.loads(self.facts["interval"])
        steps = FixedSteps(int(facts["steps"]))
        if facts.get("sampling_method") == "complexity_aware":
            ends = int(facts["tmin"]), int(facts["steps"])
            steps = EntropySteps(
                int(facts["wp"]), float(facts["k"]), float(facts["b"]), *ends, min_temperature_factor=0.5
            )
        schedule = CosineSchedule() if facts.get("sampling_method") == "cosine" else LinearSchedule()
        guidance = Guidance(float(facts["cfg"]), tuple(interval))
        return SamplingSettings(steps, guidance, schedule, temperature=float(facts["tau"]))


class RecordedSource:
    """Draws of a recording, one row per sample; later steps of finished samples are skipped with them."""

    def __init__(self, recording, rows=None, step=0):
        self.recording, self.step = recording, step
        self.rows = torch.arange(recording.num_samples) if rows is None else rows

    def __len__(self):
        return len(self.rows)

    def select(self, indices):
        return RecordedSource(self.recording, self.rows[indices], self.step)

    def codes(self, num_classes, shape):
        return self.recording["draw.rand_labels"][self.rows].unsqueeze(2)

    def exponential(self, shape):
        return self.recording["draw.exp"][self.step][self.rows].unsqueeze(2)

    def uniform(self, shape):
        self.step += 1
        return self.recording["draw.uniform"][self.step - 1][self.rows].unsqueeze(2)


@dataclass(frozen=True)
class RecordedCondition:
    """Which rows of the recording are asked for, and from which branch."""

    rows: torch.Tensor
    is_null: torch.Tensor

    def __len__(self):
        return len(self.rows)

    def null(self):
        return RecordedCondition(self.rows, torch.ones_like(self.is_null))

    def select(self, indices):
        return RecordedCondition(self.rows[indices], self.is_null[indices])

    def joined(self, other):
        return RecordedCondition(torch.cat([self.rows, other.rows]), torch.cat([self.is_null, other.is_null]))

    def dropped(self, mask):
        return RecordedCondition(self.rows, self.is_null | mask)

    def to(self, device):
        return RecordedCondition(self.rows.to(device), self.is_null.to(device))


class ReplayedRefiner:
    """Return the recorded logits, after checking that codes and signal are the recorded ones."""

    def __init__(self, recording):
        self.recording, self.step = recording, 0

    def __call__(self, codes, signal, condition):
        assert torch.equal(codes, self.recording["step.z"][self.step].unsqueeze(2)[condition.rows])
        torch.testing.assert_close(signal, self.recording["step.t"][self.step][condition.rows], atol=3e-7, rtol=0)
        conditional, null = self.recording.logits(self.step)
        self.step += 1
        is_null = condition.is_null[:, None, None, None, None, None]
        return torch.where(is_null, null[condition.rows], conditional[condition.rows]).float()


@pytest.fixture(params=["sampling_interval", "sampling_cosine", "sampling_entropy"])
def recording(request):
    return Recording(request.param)


def replay(recording):
    settings = recording.settings()
    count = recording.num_samples
    condition = RecordedCondition(torch.arange(count), torch.zeros(count, dtype=torch.bool))
    guided = apply_guidance(ReplayedRefiner(recording), condition, settings.guidance)
    return refine(guided, RecordedSource(recording), recording.shape, recording.num_classes, settings)


def test_every_step_of_a_published_run_is_reproduced(recording):
    for record in replay(recording):
        rows, step = record.active, record.index
        assert torch.equal(record.prediction, recording["step.pred_labels"][step][rows].unsqueeze(2))
        assert torch.equal(record.state, recording["step.z"][step + 1][rows].unsqueeze(2))
        if "step.entropy" in recording.tensors and f"step.x_cond{step}" in recording.tensors:
            torch.testing.assert_close(record.entropy, recording["step.entropy"][step][rows], atol=1e-6, rtol=0)


def test_the_result_of_a_published_run_is_reproduced(recording):
    result = collect(replay(recording))
    assert torch.equal(result.codes, recording["out.z"].unsqueeze(2))
    if "sched.total_steps" in recording.tensors:
        assert result.num_steps.tolist() == recording["sched.total_steps"].int().tolist() == [7, 14, 16]
        assert result.num_steps.tolist() == recording["step.not_finished"].sum(0).tolist()
    else:
        assert result.num_steps.tolist() == [int(recording.facts["steps"])] * recording.num_samples


def test_converted_weights_and_our_sampler_together_are_the_published_program():
    """No replay: our network with the published weights decides everything but the draws."""
    recording = Recording("sampling_entropy")
    weights = {key.removeprefix("w."): value for key, value in recording.tensors.items() if key.startswith("w.")}
    start = json.loads(recording.facts["config"])["in_context_start"]
    refiner = class_refiner_from_weights(weights, recording.num_classes, start).eval()
    settings = recording.settings()
    guided = apply_guidance(
        refiner, ClassCondition(recording["in.labels"], refiner.config.num_classes), settings.guidance
    )
    records = list(refine(guided, RecordedSource(recording), recording.shape, recording.num_classes, settings))
    for record in records:
        rows, step = record.active, record.index
        assert torch.equal(record.prediction, recording["step.pred_labels"][step][rows].unsqueeze(2))
        torch.testing.assert_close(record.entropy, recording["step.entropy"][step][rows], atol=1e-5, rtol=0)
    result = collect(records)
    assert torch.equal(result.codes, recording["out.z"].unsqueeze(2))
    assert result.num_steps.tolist() == [7, 14, 16]
