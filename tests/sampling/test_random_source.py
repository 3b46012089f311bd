"""Random streams: one per sample, independent of the batch, of each other and of the global generator."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genrefine.errors import GenrefineError
from genrefine.sampling.random_source import RandomSource, SeededSource

SHAPE = (3, 1, 2, 2)
seeds = st.integers(0, 2**63 - 1)


def one_of_each(streams):
    return streams.codes(16, SHAPE), streams.exponential((*SHAPE, 16)), streams.uniform(SHAPE)


@settings(max_examples=30)
@given(st.lists(seeds, min_size=1, max_size=5), st.randoms())
def test_a_seed_draws_the_same_alone_and_in_any_batch_and_order(batch, shuffler):
    alone = {seed: one_of_each(SeededSource([seed])) for seed in batch}
    order = shuffler.sample(batch, len(batch))
    for together in zip(order, *one_of_each(SeededSource(order)), strict=True):
        for row, expected in zip(together[1:], alone[together[0]], strict=True):
            assert torch.equal(row, expected[0])


def test_streams_of_the_others_do_not_move_when_some_leave():
    streams, alone = SeededSource([1, 2, 3]), SeededSource([2])
    streams.uniform(SHAPE), alone.uniform(SHAPE)
    rest = streams.select(torch.tensor([1]))
    assert torch.equal(rest.uniform(SHAPE), alone.uniform(SHAPE))


def test_small_seeds_are_those_of_torch_generators():
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 2**32 - 1)]
    for ours, theirs in zip(
        one_of_each(SeededSource([7, 2**32 - 1])), one_of_each(SeededSource.from_generators(generators)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = one_of_each(SeededSource([5]))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, one_of_each(SeededSource([5])), strict=True))


@pytest.mark.parametrize("step", [1, 2**31, 2**32, 2**33, 2**62])
def test_seeds_a_power_of_two_apart_have_unrelated_streams(step):
    near = SeededSource([5]).uniform((4096,))[0]
    far = SeededSource([5 + step]).uniform((4096,))[0]
    assert abs(torch.corrcoef(torch.stack([near, far]))[0, 1]) < 5 / math.sqrt(4096)


@pytest.mark.parametrize("start", [0, 2**32, 2**63 - 2000])
def test_neighbouring_seeds_start_unrelated(start):
    """Differences of the first draws of seeds s and s + 1, modulo 1, are uniform if the two are independent."""
    first = SeededSource(range(start, start + 2000)).uniform((8,)).double()
    for differences in ((first[1:] - first[:-1]) % 1).T:
        assert stats.kstest(differences.numpy(), "uniform").pvalue > 1e-4
    assert stats.kstest(first.flatten().numpy(), "uniform").pvalue > 1e-4


def test_two_thousand_seeds_give_two_thousand_streams():
    seeds = [*range(1000), *range(2**40, 2**40 + 1000)]
    rows = SeededSource(seeds).codes(256, (8,))
    assert len({tuple(row.tolist()) for row in rows}) == 2000


def test_exponentials_and_codes_have_their_laws():
    streams = SeededSource([11])
    exponential = streams.exponential((20_000,))[0]
    assert exponential.min() > 0
    assert stats.kstest(exponential.double().numpy(), "expon").pvalue > 1e-4
    counts = torch.bincount(streams.codes(16, (20_000,))[0], minlength=16)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_small_exponentials_are_not_rounded_to_a_grid():
    """float32 uniforms would leave 60 % of the draws below 1e-6 on multiples of 2**-24."""
    draws = SeededSource([3]).exponential((2**21,))[0]
    small = draws[draws < 1e-5].double() * 2**24
    assert len(small) > 5
    assert ((small - small.round()).abs() > 1e-3).any()


def test_an_exponential_race_draws_labels_with_their_probabilities():
    probabilities = torch.tensor([0.0625, 0.125, 0.3125, 0.5])
    winners = (probabilities / SeededSource([1]).exponential((20_000, 4))[0]).argmax(-1)
    counts = torch.bincount(winners, minlength=4).double()
    assert stats.chisquare(counts.numpy(), (probabilities.double() * 20_000).numpy()).pvalue > 1e-4


def test_draws_arrive_on_the_device_asked_for_and_in_the_types_of_the_interface():
    streams = SeededSource([1, 2], device="meta")
    codes, exponential, uniform = one_of_each(streams)
    assert codes.is_meta
    assert exponential.is_meta
    assert (codes.dtype, exponential.dtype, uniform.dtype) == (torch.int32, torch.float32, torch.float32)
    assert isinstance(streams, RandomSource)
    assert len(streams) == 2


@pytest.mark.parametrize("seed", [-1, 2**63, True])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(GenrefineError, match=r"0 \.\. 2\*\*63 - 1"):
        SeededSource([seed])


def test_an_empty_batch_and_a_shared_generator_are_refused():
    with pytest.raises(GenrefineError, match="at least one"):
        SeededSource([])
    with pytest.raises(GenrefineError, match="at least one"):
        SeededSource.from_generators([])
    generator = torch.Generator()
    with pytest.raises(GenrefineError, match="of its own"):
        SeededSource.from_generators([generator, generator])
