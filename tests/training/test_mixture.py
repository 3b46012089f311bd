"""Batches of several kinds: exact shares, one kind a batch, and a resumed run that goes on as if never stopped."""

import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from genrefine import GenrefineError
from genrefine.training.mixture import Kind, Mixture, MixtureBatches, turns
from genrefine.training.order import EndlessBatches, step_seed

KINDS = (Kind("stills", 10, 4, 0.7), Kind("clips", 3, 2, 0.3, groups=[[0, 2], [1]]))


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12))
def test_every_prefix_has_the_shares_of_all_kinds(shares: list[float]) -> None:
    total, counts = sum(shares), [0] * len(shares)
    slack = 1 - 1 / (2 * max(len(shares), 2) - 2)
    for number, kind in enumerate(islice(turns(shares), 300), start=1):
        counts[kind] += 1
        for share, count in zip(shares, counts, strict=True):
            assert abs(number * share / total - count) <= slack + 1e-9


def test_taking_the_kind_with_the_most_credit_would_not_do() -> None:
    """The obvious rule misses a share by more than one batch, so the test above can fail."""
    shares = [0.47, 0.42, 0.07, 0.02, 0.01, 0.01]
    worst, credit = 0.0, [0.0] * 6
    for _ in range(400):
        credit = [own + share for own, share in zip(credit, shares, strict=True)]
        credit[credit.index(max(credit))] -= 1
        worst = max(worst, *map(abs, credit))
    assert worst > 1.01


def test_turns_of_two_kinds_are_those_of_the_larger_credit() -> None:
    assert list(islice(turns([0.75, 0.25]), 8)) == [0, 0, 1, 0, 0, 0, 1, 0]
    assert list(islice(turns([3, 1]), 8)) == list(islice(turns([0.75, 0.25]), 8))


def test_every_batch_is_of_one_kind_and_inside_it_the_law_of_order_holds() -> None:
    batches = list(islice(MixtureBatches(KINDS, seed=5), 40))
    stills = [batch for batch in batches if max(batch) < 10]
    clips = [[item - 10 for item in batch] for batch in batches if min(batch) >= 10]
    assert len(stills) + len(clips) == 40
    assert len(stills) == 28
    assert stills == list(islice(EndlessBatches(10, 4, step_seed(5, 0, purpose=3)), 28))
    assert clips == list(islice(EndlessBatches([[0, 2], [1]], 2, step_seed(5, 1, purpose=3)), 12))


@pytest.mark.parametrize("start", [1, 7, 23])
def test_a_resumed_mixture_goes_on_where_it_stopped(start: int) -> None:
    whole = list(islice(MixtureBatches(KINDS, seed=5), 40))
    assert list(islice(MixtureBatches(KINDS, seed=5, start=start), 40 - start)) == whole[start:]


def test_processes_share_every_batch() -> None:
    whole = islice(MixtureBatches(KINDS, seed=1), 20)
    parts = [islice(MixtureBatches(KINDS, seed=1, rank=rank, num_processes=2), 20) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(first + second) == sorted(batch)
        assert min(len(first), len(second)) > 0


def test_items_of_a_kind_follow_those_of_the_kind_before() -> None:
    mixture = Mixture([TensorDataset(torch.arange(10)), TensorDataset(torch.arange(3))], KINDS)
    assert [mixture.kind_of(index) for index in range(13)] == [0] * 10 + [1] * 3
    assert mixture[11] == (torch.tensor(1),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_items": 0}, "the data set of clips is empty"),
        ({"batch_size": 0}, "clips need a batch of at least 1 and a share above 0; got 0 and 0.3"),
        ({"share": 0.0}, "got 2 and 0.0"),
        ({"share": math.nan}, "got 2 and nan"),
        ({"share": math.inf}, "got 2 and inf"),
    ],
)
def test_a_kind_without_items_batch_or_share_is_refused(changes: dict[str, float], message: str) -> None:
    clips = Kind(**{"name": "clips", "num_items": 3, "batch_size": 2, "share": 0.3, **changes})
    with pytest.raises(GenrefineError, match=message):
        Mixture([TensorDataset(torch.arange(10)), TensorDataset(torch.arange(3))], [KINDS[0], clips])


@pytest.mark.parametrize("num_processes", [3, 4, 8])
def test_batches_that_processes_cannot_share_evenly_are_refused(num_processes: int) -> None:
    with pytest.raises(GenrefineError, match=rf"must be a multiple of the {num_processes} processes; got"):
        MixtureBatches(KINDS, seed=0, num_processes=num_processes)
    with pytest.raises(GenrefineError, match=rf"a batch of items .* the {num_processes} processes; got 5"):
        EndlessBatches(10, 5, seed=0, num_processes=num_processes)
