"""What a text refiner is told: a prompt for every sample, and the first frame of a clip that is already given.

A prompt is a sequence of embeddings from a frozen text encoder (`text_encoder`). The samples of a condition point into
one table of prompts, so a prompt that many samples share, or that guidance uses at every step, is held once; what a
network computes from the prompts alone (`PrefixCache`, text keys and values of the prefix layout) is held once too.

The null condition of a sample is the empty prompt, or its negative prompt; its first frame stays. Classifier-free
guidance and caption dropout both use it (arXiv 2604.13030, section 3.3; method sections 3 and 5).
"""

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from genrefine.errors import GenrefineError

FirstFrame = Int[Tensor, "_ 1 _ _"]


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """Keys and values of every prompt in every layer of one network.

    Args:
        keys: one tensor per layer, normalized and rotated; tokens beyond a prompt's length mean nothing.
        values: the same for values.
        owner: the network they were computed by.
        cache_key: dtype, version and adapters of its weights at that time.
    """

    keys: tuple[Float[Tensor, "prompts heads tokens head_dim"], ...]
    values: tuple[Float[Tensor, "prompts heads tokens head_dim"], ...]
    owner: "weakref.ref[Any]"
    cache_key: tuple[Any, ...]

    def fits(self, other: "PrefixCache") -> bool:
        """Say whether both were computed by one network with the same weights."""
        return self.owner == other.owner and self.cache_key == other.cache_key

    def joined(self, other: "PrefixCache") -> "PrefixCache":
        """Return these prompts followed by the others; both are of one network."""
        keys, values = _joined_layers(self.keys, other.keys), _joined_layers(self.values, other.values)
        return PrefixCache(keys, values, self.owner, self.cache_key)

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> "PrefixCache":
        """Return the same on another device."""
        keys, values = (
            tuple(layer.to(device, non_blocking=non_blocking) for layer in layers)
            for layers in (self.keys, self.values)
        )
        return PrefixCache(keys, values, self.owner, self.cache_key)


@dataclass(frozen=True, eq=False)
class Prompts:
    """A table of prompts.

    Args:
        embeddings: one row per prompt, zero beyond its length.
        lengths: tokens of each prompt.
        cache: what a network keeps of them; None before `TextRefiner.prepare`.
    """

    embeddings: Float[Tensor, "prompts tokens channels"]
    lengths: tuple[int, ...]
    cache: PrefixCache | None = None

    def tokens(self, row: int) -> Float[Tensor, "tokens channels"]:
        """Return the embeddings of one prompt."""
        return self.embeddings[row, : self.lengths[row]]

    def joined(self, other: "Prompts") -> "Prompts":
        """Return these prompts followed by the others; memories survive if one network made both."""
        cache = None
        if self.cache is not None and other.cache is not None and self.cache.fits(other.cache):
            cache = self.cache.joined(other.cache)
        tables = _joined_tokens(self.embeddings, other.embeddings, token_axis=1)
        return Prompts(tables, self.lengths + other.lengths, cache)

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> "Prompts":
        """Return the same prompts on another device."""
        cache = None if self.cache is None else self.cache.to(device, non_blocking)
        return Prompts(self.embeddings.to(device, non_blocking=non_blocking), self.lengths, cache)


@dataclass(frozen=True, eq=False)
class TextCondition:
    """Give every sample a prompt, a null prompt and perhaps a first frame.

    Args:
        prompts: the table.
        rows: the prompt of each sample, as a row of the table.
        null_rows: the prompt that stands for "nothing known" of each sample.
        first_frames: clean codes of the first frame of each sample, or None where the network makes it.

    Example:
        >>> condition = TextCondition.of([torch.randn(5, 8), torch.randn(3, 8)], null=torch.randn(1, 8))
        >>> len(condition), condition.prompts.lengths, condition.joined(condition.null()).rows
        (2, (1, 5, 3), (1, 2, 0, 0))
    """

    prompts: Prompts
    rows: tuple[int, ...]
    null_rows: tuple[int, ...]
    first_frames: tuple[FirstFrame | None, ...]

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.null_rows) == len(self.first_frames):
            raise GenrefineError(
                "every sample needs one prompt, one null prompt and one first frame or None; "
                f"got {len(self.rows)}, {len(self.null_rows)} and {len(self.first_frames)}"
            )

    @staticmethod
    def of(
        prompts: Sequence[Float[Tensor, "_ _"]],
        null: Float[Tensor, "_ _"] | Sequence[Float[Tensor, "_ _"]],
        first_frames: Int[Tensor, "_ _ 1 _ _"] | Sequence[FirstFrame | None] | None = None,
    ) -> "TextCondition":
        """Build a condition from the embeddings of single prompts.

        Prompts that are the same tensor object, as the text encoder's cache returns them, are held once.

        Args:
            prompts: embeddings of each sample's prompt, at least one token each.
            null: embeddings of the empty prompt for all samples, or of one negative prompt per sample.
            first_frames: clean codes of first frames, one per sample.

        Raises:
            GenrefineError: if numbers of samples or channels differ, or a prompt has no token.
        """
        nulls = [null] * len(prompts) if isinstance(null, Tensor) else list(null)
        if len(nulls) != len(prompts):
            raise GenrefineError(f"expected one negative prompt per prompt; got {len(nulls)} for {len(prompts)}")
        table: dict[int, Tensor] = {id(tokens): tokens for tokens in (*nulls, *prompts)}
        places = {key: row for row, key in enumerate(table)}
        unique = list(table.values())
        if len({tokens.shape[1] for tokens in unique}) > 1 or any(len(tokens) == 0 for tokens in unique):
            shapes = ", ".join(str(tuple(tokens.shape)) for tokens in unique[:4])
            raise GenrefineError(f"prompts must be (tokens, channels) of one encoder, not empty; got {shapes}")
        longest = max((len(tokens) for tokens in unique), default=0)
        padded = [F.pad(tokens, (0, 0, 0, longest - len(tokens))) for tokens in unique]
        embeddings = torch.stack(padded) if padded else torch.zeros(0, 0, 0)
        return TextCondition(
            Prompts(embeddings, tuple(len(tokens) for tokens in unique)),
            tuple(places[id(tokens)] for tokens in prompts),
            tuple(places[id(tokens)] for tokens in nulls),
            (None,) * len(prompts) if first_frames is None else tuple(first_frames),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Text tokens of each sample."""
        return tuple(self.prompts.lengths[row] for row in self.rows)

    def null(self) -> "TextCondition":
        """Return the samples with the null prompt in place of the prompt."""
        return replace(self, rows=self.null_rows)

    def select(self, indices: Int[Tensor, "selected"]) -> "TextCondition":
        """Return the samples at these positions, in this order; the table of prompts stays whole."""
        chosen = indices.tolist()
        rows, null_rows, first_frames = (
            tuple(values[i] for i in chosen) for values in (self.rows, self.null_rows, self.first_frames)
        )
        return TextCondition(self.prompts, rows, null_rows, first_frames)

    def joined(self, other: "TextCondition") -> "TextCondition":
        """Return these samples followed by the others.

        Raises:
            GenrefineError: if the prompts are of encoders of different width.
        """
        prompts, offset = self.prompts, 0
        if other.prompts is not self.prompts:
            ours, theirs = prompts.embeddings.shape[2], other.prompts.embeddings.shape[2]
            if ours != theirs:
                raise GenrefineError(f"conditions to join must have embeddings of one width; got {ours} and {theirs}")
            prompts, offset = prompts.joined(other.prompts), len(prompts.lengths)
        return TextCondition(
            prompts,
            self.rows + tuple(row + offset for row in other.rows),
            self.null_rows + tuple(row + offset for row in other.null_rows),
            self.first_frames + other.first_frames,
        )

    def dropped(self, mask: Bool[Tensor, "batch"]) -> "TextCondition":
        """Return the samples with the prompt under the mask replaced by the null prompt (caption dropout)."""
        pairs = zip(mask.tolist(), self.rows, self.null_rows, strict=True)
        return replace(self, rows=tuple(null if drop else row for drop, row, null in pairs))

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> "TextCondition":
        """Return the same samples on another device."""
        frames = (None if frame is None else frame.to(device, non_blocking=non_blocking) for frame in self.first_frames)
        return replace(self, prompts=self.prompts.to(device, non_blocking), first_frames=tuple(frames))


def _flatten(condition: TextCondition) -> tuple[list[Any], tuple[Any, ...]]:
    prompts, cache = condition.prompts, condition.prompts.cache
    kept = None if cache is None else (cache.owner, cache.cache_key)
    layers = [] if cache is None else [cache.keys, cache.values]
    told = (prompts.lengths, condition.rows, condition.null_rows, kept)
    return [prompts.embeddings, condition.first_frames, *layers], told


def _flatten_with_keys(condition: TextCondition) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    tensors, told = _flatten(condition)
    names = ("embeddings", "first_frames", "keys", "values")
    return [(pytree.GetAttrKey(name), tensor) for name, tensor in zip(names, tensors, strict=False)], told


def _to_json(told: tuple[Any, ...]) -> tuple[Any, ...]:
    if told[3] is not None:
        raise GenrefineError("a prepared condition belongs to one network and is not saved; save it unprepared")
    return told[:3]


def _from_json(lists: Sequence[Sequence[int]]) -> tuple[Any, ...]:
    return (*(tuple(numbers) for numbers in lists), None)


def _unflatten(tensors: Iterable[Any], told: tuple[Any, ...]) -> TextCondition:
    embeddings, first_frames, *layers = tensors
    lengths, rows, null_rows, kept = told
    cache = PrefixCache(*layers, *kept) if kept is not None else None
    return TextCondition(Prompts(embeddings, lengths, cache), rows, null_rows, tuple(first_frames))


# So that compiled and exported networks take conditions as arguments.
pytree.register_pytree_node(
    TextCondition,
    _flatten,
    _unflatten,
    serialized_type_name="genrefine.conditioning.TextCondition",
    flatten_with_keys_fn=_flatten_with_keys,
    to_dumpable_context=_to_json,
    from_dumpable_context=_from_json,
)


def _joined_tokens(first: Tensor, second: Tensor, token_axis: int) -> Tensor:
    """Concatenate two tables whose rows have different numbers of tokens, filling up with zeros."""
    longest = max(first.shape[token_axis], second.shape[token_axis])
    after = 2 * (first.ndim - 1 - token_axis)
    padded = [F.pad(x, (0,) * after + (0, longest - x.shape[token_axis])) for x in (first, second.to(first.device))]
    return torch.cat(padded)


def _joined_layers(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(_joined_tokens(a, b, token_axis=2) for a, b in zip(first, second, strict=True))
