"""What a refiner refuses before it computes: one line that says what was expected, what came, what to do."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.conditioning.text_condition import TextCondition
from genrefine.errors import GenrefineError


def check_codes(samples: Sequence[Tensor], first_frames: Sequence[Tensor | None], sizes: Any) -> None:
    """Refuse samples and first frames of wrong shape or with codes out of range."""
    if not samples:
        raise GenrefineError("a batch needs at least one sample; got none")
    for sample, first in zip(samples, first_frames, strict=False):
        if sample.shape[0] != sizes.code_channels or 0 in sample.shape:
            raise GenrefineError(
                f"codes must be (batch, {sizes.code_channels}, t, h, w); got a sample of {tuple(sample.shape)}; "
                "use the tokenizer this refiner was trained with"
            )
        if first is None:
            continue
        if sizes.attention == "prefix":
            raise GenrefineError("a refiner with prefix attention takes no first frame; use one with joint attention")
        expected = (sample.shape[0], 1, *sample.shape[2:])
        if first.shape != expected:
            raise GenrefineError(
                f"a first frame must have codes of shape {expected}; got {tuple(first.shape)}; resize the picture"
            )
    _check_range([*samples, *(first for first in first_frames if first is not None)], sizes.code_classes)


def check_text_condition(
    condition: TextCondition,
    sizes: Any,
    max_tokens: int,
    num_samples: int | None = None,
    num_signals: int | None = None,
) -> None:
    """Refuse prompts of another encoder, prompts that are too long, and conditions for another number of samples."""
    channels = condition.prompts.embeddings.shape[2]
    if channels != sizes.text_channels:
        raise GenrefineError(
            f"this refiner reads text embeddings of {sizes.text_channels} channels; got {channels}; "
            "use the text encoder it was trained with"
        )
    longest = max(condition.prompts.lengths, default=0)
    if longest > max_tokens:
        raise GenrefineError(f"a prompt may have up to {max_tokens} tokens; got {longest}; shorten it")
    if num_samples is not None and not len(condition) == num_samples == num_signals:
        raise GenrefineError(
            f"every sample needs one prompt and one signal; got {num_samples} samples, {len(condition)} prompts "
            f"and {num_signals} signals"
        )


def check_class_batch(codes: Tensor, condition: ClassCondition, sizes: Any) -> None:
    """Refuse codes of another tokenizer or picture size, and conditions over other classes or another batch."""
    expected = (sizes.code_channels, 1, *sizes.grid)
    if tuple(codes.shape[1:]) != expected:
        raise GenrefineError(
            f"codes must be (batch, {', '.join(map(str, expected))}); got {tuple(codes.shape)}; "
            "use the tokenizer and picture size this refiner was trained with"
        )
    if condition.num_classes != sizes.num_classes:
        raise GenrefineError(
            f"this refiner knows {sizes.num_classes} classes; got a condition over {condition.num_classes}; "
            "build the condition with the refiner's num_classes"
        )
    if len(condition) != codes.shape[0]:
        raise GenrefineError(
            f"every sample needs one label; got {len(condition)} labels for {codes.shape[0]} samples; "
            "repeat or drop labels"
        )
    _check_range([codes], sizes.code_classes)


def _check_range(samples: Sequence[Tensor], code_classes: int) -> None:
    # Values are read on the host, which a compiled graph cannot do and a meta tensor does not have.
    if torch.compiler.is_compiling() or samples[0].is_meta or not samples[0].numel():
        return
    extremes = torch.stack([torch.stack(torch.aminmax(sample)) for sample in samples])
    low, high = int(extremes.min()), int(extremes.max())
    if low < 0 or high >= code_classes:
        raise GenrefineError(
            f"codes must lie in 0 .. {code_classes - 1}; got {low} .. {high}; "
            "use a tokenizer with the refiner's rounds and layout"
        )
