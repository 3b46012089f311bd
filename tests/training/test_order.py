"""Groups: ten variants of a thing have as many turns as a thing without variants."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import TensorDataset

from genrefine import GenrefineError
from genrefine.data import CodeStore, ImageSource, PixelsOnly
from genrefine.training.mixture import Kind, Mixture
from genrefine.training.order import EndlessBatches, Grouped, groups_of, name_of
from tiny_models import tiny_tokenizer

GROUPS = [[0, 3, 4], [1], [2, 5]]


@given(st.lists(st.sampled_from(["a", "b", ("c", 1), None]), max_size=20))
def test_groups_part_the_items_by_value(values: list[object]) -> None:
    groups = groups_of(values)
    assert sorted(item for group in groups for item in group) == list(range(len(values)))
    assert [values[group[0]] for group in groups] == list(dict.fromkeys(values))
    for group in groups:
        assert {values[item] for item in group} == {values[group[0]]}
        assert group == sorted(group)


def test_every_epoch_visits_every_group_once_and_its_members_equally_often() -> None:
    batches = EndlessBatches(GROUPS, 3, seed=2)  # a batch is an epoch
    epochs = list(islice(batches, 12))
    group_of = {item: place for place, group in enumerate(GROUPS) for item in group}
    assert all(sorted(group_of[item] for item in epoch) == [0, 1, 2] for epoch in epochs)
    visits = Counter(item for epoch in epochs for item in epoch)
    assert [visits[item] for item in range(6)] == [4, 12, 6, 4, 4, 6]
    assert len({tuple(epoch) for epoch in epochs}) > 3


def test_batches_may_span_epochs_of_groups_and_resume_between_them() -> None:
    whole = list(islice(EndlessBatches(GROUPS, 4, seed=2), 12))
    flat = [item for batch in whole for item in batch]
    assert flat == [item for epoch in islice(EndlessBatches(GROUPS, 3, seed=2), 16) for item in epoch]
    assert list(islice(EndlessBatches(GROUPS, 4, seed=2, start=5), 7)) == whole[5:]


def test_groups_of_one_are_no_groups() -> None:
    alone = islice(EndlessBatches([[i] for i in range(7)], 3, seed=1), 9)
    assert list(alone) == list(islice(EndlessBatches(7, 3, seed=1), 9))


def test_a_grouped_data_set_gives_the_items_of_its_own() -> None:
    grouped = Grouped(TensorDataset(torch.arange(6) * 10), GROUPS)
    assert len(grouped) == 6
    assert grouped[4] == (torch.tensor(40),)


@pytest.mark.parametrize("groups", [[[0, 1]], [[0, 1], [1, 2]], [[0, 1, 2], []], [[0, 1, 3]], [[0, 1, 2], [2]]])
def test_groups_that_are_no_partition_are_refused(groups: list[list[int]]) -> None:
    with pytest.raises(GenrefineError, match="groups must hold each of 3 items once; got"):
        Grouped(TensorDataset(torch.arange(3)), groups)


def test_items_are_named_through_everything_that_wraps_them(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    source = ImageSource(tmp_path, size=16)
    store = CodeStore.create(tmp_path / "codes", tiny_tokenizer(), source)
    grouped = Grouped(PixelsOnly(source), [[0, 2], [1]])
    assert [name_of(grouped, index) for index in range(3)] == ["a.png", "b.png", "c.png"]
    assert [name_of(store, index) for index in range(6)] == ["a.png", "a.png", "b.png", "b.png", "c.png", "c.png"]
    kinds = [Kind("pixels", 3, 1), Kind("codes", 6, 1)]
    assert name_of(Mixture([grouped, store], kinds), 2) == "c.png"
    assert name_of(Mixture([grouped, store], kinds), 3 + 5) == "c.png"
    assert name_of(TensorDataset(torch.zeros(3)), 2) == "item 2"
