"""The published class-to-image sampler, written out slowly from the facts, in variants that no recording has."""

import math

import pytest
import torch

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.convert import class_draws, class_sampler
from genrefine.sampling.records import collect
from tiny_models import tiny_refiner

NAMES = [0, 3, 5, 1]


def published_run(refiner, draws, steps, cfg, low, high, tau, method, budget):
    """Return labels of every step, which samples were at work, the final map and entropies; float32 as there."""
    noise, exponentials, uniforms = draws
    config = refiner.config
    conditions = [
        ClassCondition(torch.tensor(names), config.num_classes) for names in (NAMES, [config.num_classes] * 4)
    ]
    z, t = noise, torch.zeros(len(noise))
    dynamic = entropy = torch.full((len(noise),), float("nan"))
    labels, at_work = [], []
    for i in range(steps):
        conditional, null = (refiner(z[:, :, None], t, c)[:, :, 0] for c in conditions)  # B D H W K
        if low < 0:
            weight = 1 + cfg * (1 - torch.cos(math.pi * t**-low)) / 2
        else:
            inside = (t < high) & (torch.tensor(low == 0) | (t > low))
            weight = torch.where(inside, cfg, 1.0)
        factor = torch.ones(len(noise))
        t_next = torch.full_like(t, (i + 1) / steps)
        if method == "cosine":
            t_next = torch.full_like(t, 1 - math.cos(math.pi / 2 * (i + 1) / steps))
        if budget is not None and i >= budget["wp"]:
            wp = budget["wp"]
            if i == wp:
                p = conditional.softmax(-1)
                entropy = -(p * p.log2()).flatten(1).sum(1) / p[0, ..., 0].numel() / math.log2(config.code_classes)
                dynamic = (budget["k"] * entropy + budget["b"]).clamp(budget["tmin"] - wp, steps - wp).round()
            t_next = wp / steps + (1 - wp / steps) / dynamic * (i + 1 - wp)
            factor = ((dynamic - 10) / 40 + 0.5).clamp(0.5, 1)
        spread = (slice(None), None, None, None, None)
        guided = null + weight[spread] * (conditional - null)
        label = ((guided / (tau * factor[spread])).softmax(-1) / exponentials[i]).argmax(-1).int()
        unfinished = t < 0.99
        mixed = torch.where(uniforms[i] < t_next[:, None, None, None], label, noise)
        z = torch.where(unfinished[:, None, None, None], mixed, z)
        labels.append(label)
        at_work.append(unfinished)
        t = t_next
    return labels, at_work, z, entropy


BUDGET = {"wp": 3, "k": 0.0, "b": 0.0, "tmin": 6}


@pytest.mark.parametrize("classes", [2, 16])
@pytest.mark.parametrize(
    ("steps", "cfg", "low", "high", "tau", "method", "budget"),
    [
        (9, 2.0, -1.0, 1.0, 1.0, "linear", None),
        (9, 1.5, -2.5, 0.3, 1.2, "linear", None),
        (10, 3.0, 0.0, 0.6, 1.0, "linear", None),
        (20, 2.35, 0.44, 1.0, 1.31, "heun", None),
        (9, 2.35, 0.2, 0.9, 1.31, "cosine", None),
        (16, 2.35, 0.44, 1.0, 1.31, "linear", BUDGET),
        (16, 2.0, -1.0, 1.0, 1.0, "linear", BUDGET),
    ],
)
@torch.no_grad()
def test_variants_without_a_recording_are_what_the_facts_say(classes, steps, cfg, low, high, tau, method, budget):
    refiner = tiny_refiner(seed=classes, code_classes=classes)
    shape = (4, 4, 4)
    generator = torch.Generator().manual_seed(steps)
    noise = torch.randint(classes, (4, *shape), generator=generator, dtype=torch.int32)
    exponentials = -(1 - torch.rand(steps, 4, *shape, classes, generator=generator)).log().clamp_max(-1e-9)
    uniforms = torch.rand(steps, 4, *shape, generator=generator)
    draws = noise, exponentials, uniforms
    arguments = refiner, draws, steps, cfg, low, high, tau, method
    if budget is not None:  # constants belong to a model: spread its entropies over all budgets
        *_, entropy = published_run(*arguments, budget)
        slope = (steps - budget["tmin"]) / (entropy.max() - entropy.min()).item()
        budget = {**budget, "k": slope, "b": budget["tmin"] - budget["wp"] - slope * entropy.min().item()}
    labels, at_work, z, _ = published_run(*arguments, budget)
    entropy_steps = None
    if budget is not None:
        entropy_steps = {"warmup": budget["wp"], "slope": budget["k"], "offset": budget["b"]}
        entropy_steps |= {"min_steps": budget["tmin"], "max_steps": steps, "min_temperature_factor": 0.5}
    sampler = class_sampler(steps, cfg, low, high, tau, method, entropy_steps)
    settings = sampler.settings(adaptive=budget is not None)
    condition = ClassCondition(torch.tensor(NAMES), refiner.config.num_classes)
    records = list(sampler.refine(refiner, condition, class_draws(*draws), (4, 1, 4, 4), classes, settings))
    for record in records:
        assert record.active.tolist() == at_work[record.index].nonzero().flatten().tolist()
        assert torch.equal(record.prediction[:, :, 0], labels[record.index][record.active])
    result = collect(records)
    assert torch.equal(result.codes[:, :, 0], z)
    if budget is not None:
        assert len(set(result.num_steps.tolist())) > 1, "budgets must differ for the test to mean something"
