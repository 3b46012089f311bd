"""What is expected of codes: the least error, whatever the trajectory, and the given codes where codes are given."""

import pytest
import torch

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.errors import GenrefineError
from genrefine.hbq import HBQ
from genrefine.sampling.budgets import EntropySteps, FixedSteps
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.exact import ExactRefiner
from genrefine.sampling.guidance import Guidance, apply_guidance
from genrefine.sampling.known import KnownCodes
from genrefine.sampling.random_source import SeededSource
from genrefine.sampling.records import collect
from genrefine.sampling.sampler import refine
from genrefine.sampling.settings import SamplingSettings

INDEX = HBQ(2, "index")
# Two channels of two bits each that depend on each other; the second class prefers other outcomes.
REFINER = ExactRefiner(
    torch.tensor([[0, 3], [1, 2], [2, 0], [3, 3]]), torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.2, 0.6]]), 4
)
SHAPE = (2, 1, 40, 40)


def run(seeds, labels, how, known=None, shape=SHAPE):
    guided = apply_guidance(REFINER, ClassCondition.of(labels, 2), how.guidance)
    return list(refine(guided, SeededSource(seeds), shape, 4, how, known=known))


def expected(**changes):
    return SamplingSettings(**{"steps": FixedSteps(5), "final_latents": "expected"} | changes)


def test_the_expected_value_has_half_the_error_of_a_drawn_one():
    """Of a posterior, E|Y' - Y|^2 = 2 Var for a draw Y' and Var for the mean: noise that no step is left to mend."""
    law = torch.distributions.Categorical(REFINER.probabilities[0])
    torch.manual_seed(3)
    truth = REFINER.outcomes[law.sample((4, 1, 40, 40))].movedim(-1, 1).int()
    known = KnownCodes(truth, torch.zeros_like(truth, dtype=torch.bool), start=0.4)
    errors = {}
    for name in ("drawn", "expected"):
        records = run([1, 2, 3, 4], [0] * 4, expected(steps=FixedSteps(1), final_latents=name), known)
        errors[name] = float((collect(records, INDEX).latents - INDEX.decode(truth)).square().mean())
    assert 0.48 < errors["expected"] / errors["drawn"] < 0.52


def test_it_is_the_mean_of_many_drawings_of_the_last_step():
    (record,) = run([5], [1], expected(steps=FixedSteps(1)), shape=(2, 1, 3, 3))
    drawn = [
        collect(run([seed], [1], SamplingSettings(FixedSteps(1)), KnownCodes(record.state, record.fixed), (2, 1, 3, 3)))
        for seed in range(600)
    ]
    mean = torch.stack([INDEX.decode(one.codes)[0] for one in drawn]).mean(0).mean((1, 2, 3))
    # One step begins at noise, of which the posterior is the prior: the same at every position.
    assert torch.allclose(record.latents(INDEX)[0].mean((1, 2, 3)), mean, atol=0.04)


@pytest.mark.parametrize("steps", [FixedSteps(4), EntropySteps(2, 200.0, -60.0, 3, 9)], ids=["fixed", "adaptive"])
def test_the_way_is_the_same_and_only_its_end_is_shown_otherwise(steps):
    how = {"steps": steps, "guidance": Guidance(2.0), "temperature": 0.7}
    one, other = (
        collect(run([3, 4, 9], [0, 1, 1], SamplingSettings(**how, final_latents=name), shape=(2, 1, 4, 4)), INDEX)
        for name in ("drawn", "expected")
    )
    assert torch.equal(one.codes, other.codes)
    assert one.entropy == other.entropy
    assert torch.equal(one.latents, INDEX.decode(one.codes))
    assert not torch.equal(one.latents, other.latents)
    alone = collect(run([4], [1], SamplingSettings(**how, final_latents="expected"), shape=(2, 1, 4, 4)), INDEX)
    assert torch.equal(alone.latents[0], other.latents[1])


def test_neither_temperature_nor_the_draws_of_the_last_step_change_it():
    cold, warm = (run([2], [0], expected(steps=FixedSteps(1), temperature=t))[0] for t in (0.3, 1.0))
    assert not torch.equal(cold.prediction, warm.prediction)
    assert torch.equal(cold.latents(INDEX), warm.latents(INDEX))


def test_given_codes_keep_their_values():
    codes = torch.randint(4, (1, *SHAPE), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    fixed = torch.zeros_like(codes, dtype=torch.bool)
    fixed[..., :20] = True
    for record in run([1], [0], expected(), KnownCodes(codes, fixed)):
        latents = record.latents(INDEX)
        assert torch.equal(latents[..., :20], INDEX.decode(codes)[..., :20])
        assert not torch.isin(latents[..., 20:], torch.tensor([-0.75, -0.25, 0.25, 0.75])).all()


def test_without_hbq_a_result_has_codes_alone():
    assert collect(run([1], [0], expected())).latents is None


def test_the_option_is_checked_where_it_is_saved_and_where_it_is_given():
    assert RefinementSampler().settings().final_latents == "drawn"
    assert RefinementSampler(final_latents="expected").settings().final_latents == "expected"
    assert RefinementSampler(final_latents="expected").settings(final_latents="drawn").final_latents == "drawn"
    with pytest.raises(GenrefineError, match="final_latents must be one of drawn, expected; got 'mean'"):
        RefinementSampler(final_latents="mean")
