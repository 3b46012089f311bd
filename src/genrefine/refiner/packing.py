"""Many samples of different sizes in one sequence of tokens (arXiv 2604.13030, text network; method section 5).

A segment is what one sample lays into the sequence, in this order (released layout):

    visual tokens of the frames to predict (raster) | first frame, if given | text, if joint | signal token

and a token attends to its own segment only. Every segment starts at a multiple of 8 and ends in tokens that nobody
sees, so that a sample's rows take the same path through a matrix product wherever the sample stands. Two ways to
attend:

    packed      segments lie end to end; those of equal length go through one unmasked attention call together
    padded      segments are filled up to the longest; one call for all of them, under a mask

Both give the same numbers up to rounding. In the prefix layout a segment's keys are preceded by those of its prompt
(`CachedPrompts`), which were computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.nn.attention import attend
from genrefine.nn.rope import Rotation
from genrefine.nn.rope3d import rotation_at
from genrefine.refiner.positions import SIGNAL_POSITION, grid_positions, line_positions

ALIGNMENT = 8
LayerCache = tuple[Float[Tensor, "prompts kv_heads text head_dim"], Float[Tensor, "prompts kv_heads text head_dim"]]
"""Keys and values of all prompts in one layer."""


def aligned(length: int) -> int:
    """Return the next multiple of the alignment."""
    return -(-length // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Segment:
    """What one sample lays into the sequence.

    Args:
        grid: frames, rows and columns of the visual tokens to predict; (0, 0, 0) for text alone.
        num_text: text tokens.
        has_first_frame: whether a clean first frame follows the visual tokens, which then start at frame 1.
        has_signal: whether the signal token ends the segment.
    """

    grid: tuple[int, int, int]
    num_text: int = 0
    has_first_frame: bool = False
    has_signal: bool = True

    @property
    def num_visual(self) -> int:
        """Visual tokens to predict."""
        frames, height, width = self.grid
        return frames * height * width

    @property
    def length(self) -> int:
        """All tokens."""
        _, height, width = self.grid
        return self.num_visual + height * width * self.has_first_frame + self.num_text + self.has_signal

    def positions(self) -> Int[Tensor, "tokens 3"]:
        """Return the (frame, row, column) position of every token."""
        frames, height, width = self.grid
        parts = [line_positions(0, self.num_text)]
        if self.has_first_frame:
            parts.insert(0, grid_positions(1, height, width))
        if self.num_visual:
            parts.insert(0, grid_positions(frames, height, width, first_frame=int(self.has_first_frame)))
        if self.has_signal:
            parts.append(line_positions(SIGNAL_POSITION, 1))
        return torch.cat(parts)


@dataclass(frozen=True)
class CachedPrompts:
    """Which remembered prompt each segment sees before itself.

    Args:
        rows: prompt of each segment, as a row of the cache.
        lengths: tokens of these prompts.
    """

    rows: tuple[int, ...]
    lengths: tuple[int, ...]


@runtime_checkable
class AttentionBackend(Protocol):
    """A way for all segments of a sequence to attend, each to itself."""

    def __call__(
        self,
        query: Float[Tensor, "heads tokens head_dim"],
        key: Float[Tensor, "kv_heads tokens head_dim"],
        value: Float[Tensor, "kv_heads tokens head_dim"],
        cache: LayerCache | None,
    ) -> Float[Tensor, "heads tokens head_dim"]:
        """Return the attention output of every token; that of filling tokens means nothing."""
        ...


@dataclass(frozen=True, eq=False)
class Group:
    """Segments of equal length, with prompts of equal length.

    Args:
        index: their tokens in the sequence.
        rows: their prompts in the cache.
        num_remembered: tokens of each of these prompts.
    """

    index: Int[Tensor, "segments length"]
    rows: Int[Tensor, "segments"] | None
    num_remembered: int


@dataclass(frozen=True, eq=False)
class PackedAttention:
    """Attend group by group; in a compiled graph, all at once, since groups change with every batch of captions.

    Args:
        groups: of all segments.
        inverse: place of every token of the sequence in the groups' tokens, one after another.
        at_once: the other way.
    """

    groups: tuple[Group, ...]
    inverse: Int[Tensor, "tokens"]
    at_once: "RaggedAttention"

    def __call__(
        self,
        query: Float[Tensor, "heads tokens head_dim"],
        key: Float[Tensor, "kv_heads tokens head_dim"],
        value: Float[Tensor, "kv_heads tokens head_dim"],
        cache: LayerCache | None,
    ) -> Float[Tensor, "heads tokens head_dim"]:
        if torch.compiler.is_compiling():
            return self.at_once(query, key, value, cache)
        outputs = []
        for group in self.groups:
            own_query, own_key, own_value = (x[:, group.index].transpose(0, 1) for x in (query, key, value))
            if cache is not None and group.rows is not None:
                own_key, own_value = (
                    torch.cat([layer[group.rows, :, : group.num_remembered], own], dim=2)
                    for layer, own in zip(cache, (own_key, own_value), strict=True)
                )
            output = attend(own_query, own_key, own_value)
            outputs.append(rearrange(output, "segments heads n d -> heads (segments n) d"))
        return torch.cat(outputs, dim=1)[:, self.inverse]


@dataclass(frozen=True, eq=False)
class RaggedAttention:
    """Attend all segments in one call under a mask, wherever they lie: what it does depends on sizes only.

    Args:
        index: tokens of every segment in the sequence, filled up with its first to the longest.
        place: of every token of the sequence, its segment and its place there, as one number.
        padded: the call.
    """

    index: Int[Tensor, "segments longest"]
    place: Int[Tensor, "tokens"]
    padded: "PaddedAttention"

    def __call__(
        self,
        query: Float[Tensor, "heads tokens head_dim"],
        key: Float[Tensor, "kv_heads tokens head_dim"],
        value: Float[Tensor, "kv_heads tokens head_dim"],
        cache: LayerCache | None,
    ) -> Float[Tensor, "heads tokens head_dim"]:
        query, key, value = (x[:, self.index].flatten(1, 2) for x in (query, key, value))
        return self.padded(query, key, value, cache)[:, self.place]


@dataclass(frozen=True, eq=False)
class PaddedAttention:
    """Attend all segments in one call under a mask.

    Args:
        num_segments: segments, all filled up to one length.
        mask: which keys are real, remembered ones first.
        rows: prompt of each segment in the cache.
        num_remembered: tokens of the longest of these prompts.
    """

    num_segments: int
    mask: Bool[Tensor, "segments 1 1 keys"]
    rows: Int[Tensor, "segments"] | None
    num_remembered: int

    def __call__(
        self,
        query: Float[Tensor, "heads tokens head_dim"],
        key: Float[Tensor, "kv_heads tokens head_dim"],
        value: Float[Tensor, "kv_heads tokens head_dim"],
        cache: LayerCache | None,
    ) -> Float[Tensor, "heads tokens head_dim"]:
        own_query, own_key, own_value = (
            rearrange(x, "heads (segments n) d -> segments heads n d", segments=self.num_segments)
            for x in (query, key, value)
        )
        if cache is not None and self.rows is not None:
            own_key, own_value = (
                torch.cat([layer[self.rows, :, : self.num_remembered], own], dim=2)
                for layer, own in zip(cache, (own_key, own_value), strict=True)
            )
        output = attend(own_query, own_key, own_value, self.mask)
        return rearrange(output, "segments heads n d -> heads (segments n) d")


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """Where every segment lies, how its tokens are rotated and how they attend.

    Args:
        segments: in order.
        starts: first token of each.
        num_tokens: length of the sequence, filling tokens included.
        rotation: of every token.
        attention: the way to attend.
    """

    segments: tuple[Segment, ...]
    starts: tuple[int, ...]
    num_tokens: int
    rotation: Rotation
    attention: AttentionBackend

    def join(self, parts: Sequence[Sequence[Float[Tensor, "_ width"]]]) -> Float[Tensor, "tokens width"]:
        """Lay the parts of every segment into one sequence, with zeros for filling tokens."""
        pieces: list[Tensor] = []
        ends = (*self.starts[1:], self.num_tokens)
        for own, segment, start, end in zip(parts, self.segments, self.starts, ends, strict=True):
            pieces.extend(own)
            pieces.append(own[0].new_zeros(end - start - segment.length, own[0].shape[1]))
        return torch.cat(pieces)

    def visual(
        self, logits: Float[Tensor, "tokens logits"], code_classes: int
    ) -> list[Float[Tensor, "channels _t _h _w classes"]]:
        """Return the logits of every segment's visual tokens, which are channel-major, on their grid."""
        return [
            rearrange(
                logits[start : start + segment.num_visual],
                "(t h w) (d k) -> d t h w k",
                h=segment.grid[1],
                w=segment.grid[2],
                k=code_classes,
            )
            for segment, start in zip(self.segments, self.starts, strict=True)
        ]


def pack_sequence(
    segments: Sequence[Segment],
    head_dim: int,
    device: torch.device,
    batching: str = "packed",
    cached: CachedPrompts | None = None,
    equal_stride: bool = False,
) -> PackedLayout:
    """Lay out a sequence of segments.

    Args:
        segments: at least one.
        head_dim: size of an attention head.
        device: where the network runs.
        batching: "packed" or "padded".
        cached: prompts that the segments see before themselves, in the prefix layout.
        equal_stride: start the segments at equal distances in the packed way too.

    Raises:
        GenrefineError: for another way of batching.
    """
    if batching not in ("packed", "padded"):
        raise GenrefineError(f"batching must be 'packed' or 'padded'; got {batching!r}; choose one of the two")
    longest = aligned(max(segment.length for segment in segments))
    same = equal_stride or batching == "padded"
    strides = [longest if same else aligned(segment.length) for segment in segments]
    *starts, num_tokens = accumulate(strides, initial=0)
    positions = torch.zeros(num_tokens, 3, dtype=torch.int32, device="cpu")
    for segment, start in zip(segments, starts, strict=True):
        positions[start : start + segment.length] = segment.positions()
    cos, sin = rotation_at(positions, head_dim)
    make = _packed if batching == "packed" else _padded
    return PackedLayout(
        tuple(segments),
        tuple(starts),
        num_tokens,
        (cos.to(device), sin.to(device)),
        make(segments, starts, num_tokens, cached, device),
    )


def _packed(
    segments: Sequence[Segment], starts: list[int], num_tokens: int, cached: CachedPrompts | None, device: torch.device
) -> PackedAttention:
    members: dict[tuple[int, int], list[int]] = {}
    for i, segment in enumerate(segments):
        members.setdefault((segment.length, cached.lengths[i] if cached else 0), []).append(i)
    groups, places = [], []
    for (length, remembered), chosen in members.items():
        index = torch.tensor([starts[i] for i in chosen], device="cpu")[:, None] + torch.arange(length, device="cpu")
        rows = None if cached is None else torch.tensor([cached.rows[i] for i in chosen], device=device)
        groups.append(Group(index.to(device), rows, remembered))
        places.append(index.flatten())
    # A filling token, in no group, takes the output of the first token there: finite, and read by nobody.
    inverse = torch.zeros(num_tokens, dtype=torch.long, device="cpu")
    order = torch.cat(places)
    inverse[order] = torch.arange(len(order), device="cpu")
    at_once = _ragged(segments, starts, num_tokens, cached, device)
    return PackedAttention(tuple(groups), inverse.to(device), at_once)


def _ragged(
    segments: Sequence[Segment], starts: list[int], num_tokens: int, cached: CachedPrompts | None, device: torch.device
) -> RaggedAttention:
    longest = max(segment.length for segment in segments)
    real = _first(torch.tensor([segment.length for segment in segments], device="cpu"), longest)
    index = torch.tensor(starts, device="cpu")[:, None] + torch.arange(longest, device="cpu") * real
    place = torch.zeros(num_tokens, dtype=torch.long, device="cpu")  # filling tokens take the first one's output
    place[index[real]] = real.flatten().nonzero().flatten()
    padded = _padded(segments, starts, longest * len(segments), cached, device)
    return RaggedAttention(index.to(device), place.to(device), padded)


def _padded(
    segments: Sequence[Segment], starts: list[int], num_tokens: int, cached: CachedPrompts | None, device: torch.device
) -> PaddedAttention:
    real = _first(torch.tensor([segment.length for segment in segments], device="cpu"), num_tokens // len(segments))
    rows, remembered = None, 0
    if cached is not None:
        remembered = max(cached.lengths)
        real = torch.cat([_first(torch.tensor(cached.lengths, device="cpu"), remembered), real], dim=1)
        rows = torch.tensor(cached.rows, device=device)
    return PaddedAttention(len(segments), real[:, None, None].to(device), rows, remembered)


def _first(counts: Tensor, length: int) -> Bool[Tensor, "segments length"]:
    return torch.arange(length, device="cpu") < counts[:, None]
