"""Text conditions: one table of prompts, and the operations of sampling and training."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrefine.conditioning.condition import Condition
from genrefine.conditioning.text_condition import TextCondition
from genrefine.errors import GenrefineError

NULL = torch.full((1, 4), -1.0)
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def condition_of(counts, first_frames=None, null=NULL):
    return TextCondition.of([torch.full((n, 4), float(i)) for i, n in enumerate(counts)], null, first_frames)


def told(condition):
    return [condition.prompts.tokens(row).tolist() for row in condition.rows]


def test_a_text_condition_is_a_condition():
    assert isinstance(condition_of([1]), Condition)


@given(lengths, lengths)
@settings(deadline=None)
def test_joining_then_selecting_gives_back_both_parts(first, second):
    ours, theirs = condition_of(first), condition_of(second)
    joined = ours.joined(theirs)
    assert told(joined.select(torch.arange(len(first)))) == told(ours)
    assert told(joined.select(torch.arange(len(first), len(joined)))) == told(theirs)
    assert told(joined.null()) == told(ours.null()) + told(theirs.null())
    assert joined.lengths == (*first, *second)


@given(lengths)
@settings(deadline=None)
def test_dropping_everything_is_null_and_dropping_nothing_changes_nothing(counts):
    condition = condition_of(counts)
    everything = torch.ones(len(counts), dtype=torch.bool)
    assert told(condition.dropped(everything)) == told(condition.null()) == [NULL.tolist()] * len(counts)
    assert told(condition.dropped(~everything)) == told(condition)
    assert told(condition.null().null()) == told(condition.null())


def test_a_prompt_that_samples_share_is_held_once():
    prompt = torch.ones(3, 4)
    condition = TextCondition.of([prompt, torch.zeros(2, 4), prompt], NULL)
    assert condition.rows == (1, 2, 1)
    assert len(condition.prompts.lengths) == 3
    assert condition.joined(condition.null()).prompts is condition.prompts


def test_negative_prompts_belong_to_their_samples():
    condition = condition_of([2, 2], null=[torch.full((1, 4), 8.0), torch.full((3, 4), 9.0)])
    assert told(condition.null().select(torch.tensor([1]))) == [[[9.0] * 4] * 3]


def test_first_frames_follow_their_samples_and_stay_in_null():
    frames = torch.arange(2, dtype=torch.int32)[:, None, None, None, None].expand(2, 3, 1, 2, 2)
    condition = condition_of([1, 2], frames)
    chosen = condition.null().select(torch.tensor([1]))
    assert torch.equal(chosen.first_frames[0], frames[1])
    assert condition_of([1]).joined(condition).first_frames[0] is None


def test_conditions_move_and_can_live_on_the_meta_device():
    moved = condition_of([2], torch.zeros(1, 3, 1, 2, 2, dtype=torch.int32)).to("meta")
    assert moved.prompts.embeddings.is_meta
    assert moved.first_frames[0].is_meta


def test_what_does_not_fit_is_refused():
    with pytest.raises(GenrefineError, match="one negative prompt per prompt; got 1 for 2"):
        condition_of([1, 2], null=[NULL])
    with pytest.raises(GenrefineError, match="of one encoder, not empty"):
        TextCondition.of([torch.ones(2, 5)], NULL)
    with pytest.raises(GenrefineError, match="not empty"):
        TextCondition.of([torch.ones(0, 4)], NULL)
    with pytest.raises(GenrefineError, match="one width; got 4 and 5"):
        condition_of([1]).joined(TextCondition.of([torch.ones(2, 5)], torch.ones(1, 5)))
    with pytest.raises(GenrefineError, match="got 2, 2 and 1"):
        condition_of([1, 1], torch.zeros(1, 3, 1, 2, 2, dtype=torch.int32))
