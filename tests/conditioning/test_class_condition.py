"""Class conditions: ranges, null, dropout and joining."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.conditioning.condition import Condition
from genrefine.errors import GenrefineError

labels = st.lists(st.integers(0, 10), min_size=1, max_size=6)


def test_a_class_condition_is_a_condition():
    assert isinstance(ClassCondition.of([0], 2), Condition)


@given(labels, labels)
def test_joining_then_selecting_gives_back_both_parts(first, second):
    joined = ClassCondition.of(first, 10).joined(ClassCondition.of(second, 10))
    assert len(joined) == len(first) + len(second)
    assert joined.select(torch.arange(len(first))).labels.tolist() == first
    assert joined.select(torch.arange(len(first), len(joined))).labels.tolist() == second


@given(labels)
def test_dropping_everything_is_null_and_dropping_nothing_changes_nothing(values):
    condition = ClassCondition.of(values, 10)
    everything = torch.ones(len(values), dtype=torch.bool)
    assert condition.dropped(everything).labels.tolist() == condition.null().labels.tolist() == [10] * len(values)
    assert condition.dropped(~everything).labels.tolist() == values


def test_dropout_replaces_only_what_the_mask_covers():
    dropped = ClassCondition.of([1, 2, 3], 10).dropped(torch.tensor([False, True, False]))
    assert dropped.labels.tolist() == [1, 10, 3]


def test_labels_become_int64_whatever_they_were():
    assert ClassCondition(torch.tensor([1, 2], dtype=torch.int32), 3).labels.dtype == torch.int64


@pytest.mark.parametrize("label", [-1, 11, 1000])
def test_a_label_out_of_range_is_named(label):
    with pytest.raises(GenrefineError, match=f"0 .. 9, or 10 for no class; got {label}"):
        ClassCondition.of([3, label], 10)


def test_conditions_over_different_classes_do_not_join():
    with pytest.raises(GenrefineError, match="got 10 and 9"):
        ClassCondition.of([1], 10).joined(ClassCondition.of([1], 9))


def test_no_classes_are_refused():
    with pytest.raises(GenrefineError, match="num_classes"):
        ClassCondition.of([0], 0)


def test_conditions_move_and_can_live_on_the_meta_device():
    assert ClassCondition.of([3], 10).to("meta").null().labels.is_meta
