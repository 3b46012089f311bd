"""Runs of the published text samplers: recordings replayed, and the variants without a recording written out slowly."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from genrefine.conditioning.text_condition import TextCondition
from genrefine.convert import Hints, network_from_weights, text_draws, text_entropy_sampler, text_sampler
from genrefine.convert.published import TEXT_OFFSET, TEXT_SLOPE
from genrefine.hbq import HBQ
from genrefine.sampling.records import collect
from text_goldens import tiny_text_refiner

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_every_step_of_a_published_run_is_reproduced(attention):
    """Converted weights, published settings, recorded draws: the labels are the published ones, exactly."""
    with safe_open(GOLDENS / f"text_sampling_{attention}.safetensors", "pt") as file:
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = file.metadata()
    weights = {key[2:]: tensor for key, tensor in golden.items() if key.startswith("w.")}
    refiner = network_from_weights(weights, Hints(attention=attention, code_classes=2)).build()
    steps = int(facts["max_infer_steps"])
    assert json.loads(facts["config"])["mode"] == "bit"
    cfg, tau, shift = (float(facts[name]) for name in ("cfg", "tau", "snr_shift"))
    sampler = text_sampler(attention, cfg, 0.0, tau, shift, steps, steps)
    draws = text_draws(golden["draw.rand_labels"].int(), golden["draw.exp"], golden["draw.uniform"])
    condition = refiner.prepare(TextCondition.of([golden["in.text_cond"]], golden["in.text_uncond"]))
    records = list(sampler.refine(refiner, condition, draws, (16, 1, 4, 6), 2))
    assert len(records) == int(facts["steps_run"])
    for i, record in enumerate(records):
        assert torch.equal(record.prediction[0].flatten(1).T, golden["step.sample_labels"][i].int())
        assert record.signal == golden["step.pt_token"][i]
        assert record.entropy.item() == pytest.approx(golden["step.entropy"][i].item(), abs=1e-6)
        if i:
            assert torch.equal(records[i - 1].state[0], golden["step.mixed"][i].int())
    assert torch.equal(HBQ(4).decode(collect(records).codes), golden["out.features"])


def shifted(pt, alpha):
    alpha = alpha - 1000 if alpha > 1000 else alpha
    q = 1 - pt
    return 1 - alpha * q / (1 + (alpha - 1) * q)


class PublishedRun:
    """The loop of the published text programs as the facts tell it, for one sample, in their shapes."""

    def __init__(self, refiner, text, null, first, grid, classes, draws):
        self.refiner, self.first, self.classes = refiner, first, classes
        self.conditions = [TextCondition.of([words], null, first) for words in (text, null)]
        self.channels, (self.t, self.h, self.w) = refiner.config.code_channels, grid
        self.noise, self.exponentials, self.uniforms = draws
        self.labels, self.signals = [], []

    def logits(self, state, pt, which):
        out = self.refiner(state, torch.tensor([pt], dtype=torch.float32), self.conditions[which])[0]
        return out.permute(1, 2, 3, 0, 4).reshape(-1, self.classes)  # (t h w D) K

    def sample(self, state, pt, cfg, cfg_interval, tau, step):
        conditional = self.logits(state, pt, 0)
        guided = conditional
        if cfg != 1 and torch.tensor(pt, dtype=torch.float32) >= cfg_interval:
            null = self.logits(state, pt, 1)
            guided = null + cfg * (conditional - null)
        race = (guided * (1 / tau)).softmax(-1) / self.exponentials[step].reshape(-1, self.classes)
        labels = race.argmax(-1).reshape(self.t, self.h, self.w, self.channels).permute(3, 0, 1, 2)[None].int()
        self.labels.append(labels)
        self.signals.append(pt)
        return labels, conditional

    def realized(self, attention, cfg, cfg_interval, tau, snr_shift, tmax, most):
        cap, near = {"prefix": (0.999, 1e-6), "joint": (0.95, 0.02)}[attention]
        state, pt = self.noise, 0.0
        for i in range(most):
            labels, _ = self.sample(state, pt, cfg, cfg_interval, tau, i)
            if abs(pt - 1) <= near:
                break
            s = shifted(min(1.0, (i + 1) / (tmax - 1)), snr_shift)
            mask = self.uniforms[i][None] < cap * (1 - math.cos(math.pi / 2 * s))
            state, pt = torch.where(mask, labels, self.noise), mask.float().mean().item()

    def entropy_guided(self, cfg, cfg_interval, tau, alpha, least, most):
        state, pt, n, i = self.noise, 0.0, None, 0
        while i < (most if n is None else min(most, 5 + n + 1)):
            labels, conditional = self.sample(state, pt, cfg, cfg_interval, tau, i)
            if i == 5:
                p = conditional.softmax(-1)
                entropy = (-(p * p.log2()).sum(-1) / math.log2(self.classes)).mean().item()
                n = min(max(round(TEXT_SLOPE * entropy + TEXT_OFFSET), least - 5), most - 5)
            u = (i + 1) / 50 if i < 5 else 0.1 + 0.9 * (i + 1 - 5) / n
            pt = shifted(min(1.0, u), alpha)
            state = torch.where(self.uniforms[i][None] < pt, labels, self.noise)
            i += 1
        return n


def case(seed, attention, grid, classes=2, kv=2, given=False, steps=64):
    """Return a network with an opinion, a condition and draws."""
    refiner = tiny_text_refiner(seed, attention=attention, code_classes=classes, num_kv_heads=kv)
    generator = torch.Generator().manual_seed(seed)
    text, null = torch.randn(6, 10, generator=generator), torch.randn(2, 10, generator=generator)
    frames = grid[0] - given
    first = torch.randint(classes, (1, 6, 1, *grid[1:]), generator=generator, dtype=torch.int32) if given else None
    shape = (6, frames, *grid[1:])
    tokens = frames * grid[1] * grid[2]
    noise = torch.randint(classes, (1, *shape), generator=generator, dtype=torch.int32)
    exponentials = -(1 - torch.rand(steps, tokens, 6, classes, generator=generator)).log()
    uniforms = torch.rand(steps, *shape, generator=generator)
    draws = noise, exponentials.clamp_min(1e-9), uniforms
    published = PublishedRun(refiner, text, null, first, (frames, *grid[1:]), classes, draws)
    condition = refiner.prepare(TextCondition.of([text], null, first))
    return published, refiner, condition, text_draws(*draws), shape


def compare(published, records):
    assert len(records) == len(published.labels)
    for record, labels, signal in zip(records, published.labels, published.signals, strict=True):
        assert torch.equal(record.prediction, labels)
        assert record.signal.item() == pytest.approx(signal, abs=1e-7)


@pytest.mark.parametrize(
    ("attention", "grid", "options", "given"),
    [
        ("prefix", (1, 3, 4), {"cfg": 4.0, "cfg_interval": 0.3, "tmax": 9, "most": 9}, False),
        ("prefix", (2, 3, 3), {"tmax": 20, "most": 50}, False),
        ("prefix", (1, 4, 6), {"tmax": 50, "most": 50, "snr_shift": 4.0, "tau": 1.1}, False),
        ("prefix", (1, 2, 2), {"tmax": 12, "most": 7, "cfg": 1.0, "classes": 16}, False),
        ("joint", (1, 3, 4), {"tmax": 10, "most": 10, "cfg_interval": 0.5}, False),
        ("joint", (3, 3, 3), {"tmax": 8, "most": 8, "tau": 1.1, "snr_shift": 1004.0}, True),
        ("joint", (2, 2, 3), {"tmax": 6, "most": 15, "classes": 8}, False),
    ],
)
@torch.no_grad()
def test_variants_without_a_recording_are_what_the_facts_say(attention, grid, options, given):
    classes = options.get("classes", 2)
    published, refiner, condition, draws, shape = case(len(options), attention, grid, classes, given=given)
    values = {"cfg": 3.0, "cfg_interval": 0.0, "tau": 1.0, "snr_shift": 1.0, **options}
    values.pop("classes", None)
    published.realized(attention, **values)
    values["max_infer_steps"] = values.pop("most")
    sampler = text_sampler(attention, **values)
    compare(published, list(sampler.refine(refiner, condition, draws, shape, published.classes)))


def test_a_run_ends_after_a_call_that_saw_a_clean_map():
    """A map of so few elements is soon complete; the published loop then makes one call more, and no others."""
    _, refiner, condition, draws, shape = case(0, "prefix", (1, 1, 1))
    sampler = text_sampler("prefix", tmax=5, max_infer_steps=50)
    records = list(sampler.refine(refiner, condition, draws, shape, 2))
    assert len(records) < 50
    assert records[-1].signal == 1
    assert all(record.signal < 1 for record in records[:-1])


@pytest.mark.parametrize(("least", "most", "alpha"), [(10, 50, 1004), (10, 30, 2), (0, 12, 1), (50, 50, 1004)])
@torch.no_grad()
def test_the_entropy_guided_text_program_is_what_the_facts_say(least, most, alpha):
    totals = set()
    for seed in range(4):
        published, refiner, condition, draws, shape = case(seed, "prefix", (1, 3, 3))
        published.entropy_guided(3.0, 0.2, 1.1, alpha, least or most, most)
        sampler = text_entropy_sampler(least, most, alpha, 3.0, 0.2, 1.1)
        records = list(sampler.refine(refiner, condition, draws, shape, 2, sampler.settings(adaptive=True)))
        compare(published, records)
        totals.add(len(records))
    assert len(totals) > 1 or least in (0, 50), "step counts must differ for the test to mean something"
