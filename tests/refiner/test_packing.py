"""Packed sequences: one sample at a time, all together and padded are the same thing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from genrefine.errors import GenrefineError
from genrefine.refiner.packing import ALIGNMENT, CachedPrompts, Segment, pack_sequence

CPU = torch.device("cpu")
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
segments = st.builds(
    Segment,
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    num_text=st.integers(0, 5),
    has_first_frame=st.booleans(),
)


def attend_by_hand(query, key, value):
    """Give consecutive query heads the same key head, and write softmax attention out."""
    outputs = []
    for head in range(HEADS):
        shared = head // (HEADS // KV_HEADS)
        weights = (query[head] @ key[shared].T / HEAD_DIM**0.5).softmax(-1)
        outputs.append(weights @ value[shared])
    return torch.stack(outputs)


@given(st.lists(segments, min_size=1, max_size=5), st.sampled_from(["packed", "padded"]), st.booleans(), st.data())
@settings(deadline=None, max_examples=40)
def test_every_segment_attends_to_itself_and_its_prompt_only(parts, batching, is_cached, data):
    generator = torch.Generator().manual_seed(0)
    lengths = [3, 6, 1]
    cache = tuple(torch.randn(3, KV_HEADS, 8, HEAD_DIM, generator=generator) for _ in range(2))
    rows = tuple(data.draw(st.integers(0, 2)) for _ in parts)
    cached = CachedPrompts(rows, tuple(lengths[row] for row in rows)) if is_cached else None
    layout = pack_sequence(parts, HEAD_DIM, CPU, batching, cached)
    query = torch.randn(HEADS, layout.num_tokens, HEAD_DIM, generator=generator)
    key, value = torch.randn(2, KV_HEADS, layout.num_tokens, HEAD_DIM, generator=generator).unbind()
    output = layout.attention(query, key, value, cache if is_cached else None)
    assert output.isfinite().all()
    for segment, start, row in zip(parts, layout.starts, rows, strict=True):
        own = slice(start, start + segment.length)
        seen = [key[:, own], value[:, own]]
        if is_cached:
            seen = [torch.cat([kept[row, :, : lengths[row]], x], 1) for kept, x in zip(cache, seen, strict=True)]
        torch.testing.assert_close(output[:, own], attend_by_hand(query[:, own], *seen), atol=1e-5, rtol=1e-5)


@given(st.lists(segments, min_size=1, max_size=5), st.sampled_from(["packed", "padded"]))
@settings(deadline=None)
def test_segments_are_aligned_apart_and_in_order(parts, batching):
    layout = pack_sequence(parts, HEAD_DIM, CPU, batching)
    ends = [start + segment.length for start, segment in zip(layout.starts, parts, strict=True)]
    assert all(start % ALIGNMENT == 0 for start in (*layout.starts, layout.num_tokens))
    assert all(end <= start for end, start in zip(ends, (*layout.starts[1:], layout.num_tokens), strict=True))
    if batching == "packed":
        assert layout.num_tokens - sum(segment.length for segment in parts) < ALIGNMENT * len(parts)


@given(segments)
@settings(deadline=None)
def test_the_order_of_a_segment_is_visual_first_frame_text_signal(segment):
    frames, height, width = segment.grid
    positions = segment.positions()
    assert len(positions) == segment.length
    expected = [600 + f + segment.has_first_frame for f in range(frames) for _ in range(height * width)]
    expected += [600] * (height * width * segment.has_first_frame) + list(range(segment.num_text)) + [512]
    assert positions[:, 0].tolist() == expected


def test_joining_puts_parts_at_their_starts_and_zeros_between():
    parts = [Segment((1, 1, 3), num_text=2), Segment((1, 3, 3))]
    layout = pack_sequence(parts, HEAD_DIM, CPU)
    pieces = [
        [torch.ones(3, 4), torch.full((2, 4), 2.0), torch.full((1, 4), 3.0)],
        [torch.ones(9, 4), torch.ones(1, 4)],
    ]
    joined = layout.join(pieces)[:, 0].tolist()
    assert layout.starts == (0, 8)
    assert joined == [1, 1, 1, 2, 2, 3, 0, 0] + [1] * 10 + [0] * 6


def test_gradients_are_those_of_single_samples():
    parts = [Segment((1, 2, 2), num_text=3), Segment((1, 1, 3)), Segment((1, 2, 2), num_text=3)]
    generator = torch.Generator().manual_seed(0)
    for batching in ("packed", "padded"):
        layout = pack_sequence(parts, HEAD_DIM, CPU, batching)
        packed = torch.randn(3, HEADS, layout.num_tokens, HEAD_DIM, generator=generator).requires_grad_()
        output = layout.attention(*packed, None)
        owned = [slice(start, start + s.length) for start, s in zip(layout.starts, parts, strict=True)]
        sum(output[:, own].square().sum() for own in owned).backward()
        for own in owned:
            alone = packed.detach()[:, :, own].requires_grad_()
            F.scaled_dot_product_attention(*alone.unsqueeze(1)).square().sum().backward()
            torch.testing.assert_close(packed.grad[:, :, own], alone.grad, atol=1e-5, rtol=1e-5)


def test_another_way_of_batching_is_refused():
    with pytest.raises(GenrefineError, match="'packed' or 'padded'; got 'ragged'"):
        pack_sequence([Segment((1, 1, 1))], HEAD_DIM, CPU, "ragged")
