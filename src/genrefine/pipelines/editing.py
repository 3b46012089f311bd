"""Edits: which codes of a picture or clip stay, and where the others begin.

mask            codes outside are the picture's own, in every state and in the result; those inside are made anew
strength s      codes that may change begin at signal 1 - s, some of them the picture's own; 1 is made from nothing
outpainting     the picture gains margins, which are the mask
clips           a frame that is not given is made; a latent frame is made if all its frames are, or if a mask says so
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from genrefine.data.decoding import MAX_PIXELS
from genrefine.data.films import Film
from genrefine.errors import GenrefineError
from genrefine.pipelines.canvas import Canvas, grow, read_mask, read_picture
from genrefine.sampling.budgets import FixedSteps, shortened
from genrefine.sampling.known import KnownCodes, ScheduleFrom
from genrefine.sampling.settings import SamplingSettings, ScheduledSignal

WITHOUT_MASK = 0.6
"""Strength where nothing but a picture is given."""
FILMS = (".mp4", ".webm", ".mov", ".mkv", ".gif", ".webp", ".apng")
Encode = Callable[[Float[Tensor, "1 3 frames height width"]], Int[Tensor, "1 channels t h w"]]


@dataclass(frozen=True, eq=False)
class Edit:
    """What is known of one sample.

    Args:
        codes: of the picture or clip.
        fixed: True where they stay.
        canvases: its frames.
    """

    codes: Int[Tensor, "channels t h w"]
    fixed: Bool[Tensor, "channels t h w"]
    canvases: list[Canvas]

    def restore(self, made: Sequence[Image.Image], blend: bool) -> list[Image.Image]:
        """Return frames at the size that they came in; see `Canvas.restore`."""
        return [canvas.restore(frame, blend) for canvas, frame in zip(self.canvases, made, strict=True)]


@dataclass(frozen=True)
class EditOptions:
    """How pictures are edited, as callers say it.

    Args:
        mask_image: what to make anew.
        strength: s, in [0, 1]; None is 1 where a mask or margins say what changes, else 0.6.
        outpaint: pixels to add left, above, right and below.
        blend: whether the picture's own pixels are laid over what the mask leaves.
    """

    mask_image: Any = None
    strength: float | None = None
    outpaint: Sequence[SupportsIndex] | None = None
    blend: bool = True

    @property
    def given(self) -> list[str]:
        """Names of what is not as by default."""
        return [part.name for part in fields(self) if getattr(self, part.name) is not part.default]

    @property
    def effective_strength(self) -> float:
        """The strength, with its default.

        Raises:
            GenrefineError: it lies outside of [0, 1].
        """
        if self.strength is None:
            return WITHOUT_MASK if self.mask_image is None and self.outpaint is None else 1.0
        if (
            isinstance(self.strength, bool)
            or not isinstance(self.strength, (int, float))
            or not 0 <= self.strength <= 1
        ):
            raise GenrefineError(
                f"strength must lie in [0, 1], 0 for the picture itself and 1 for a new one; got {self.strength}"
            )
        return float(self.strength)

    def settings(self) -> dict[str, Any]:
        """Return what a record of the call keeps."""
        margins = {} if self.outpaint is None else {"outpaint": [int(side) for side in self.outpaint]}
        return {"strength": self.effective_strength, "blend": self.blend, **margins}


def resolve_edits(
    image: Any,
    options: EditOptions,
    count: int,
    size: tuple[int, int],
    num_frames: int,
    strides: tuple[int, int],
    encode: Encode,
) -> list[Edit]:
    """Return what is known of each sample; nothing where no picture is given.

    Args:
        image: a picture, or one per prompt; of a clip its frames, None for those to be made, or a film's path.
        options: what becomes of it.
        count: prompts.
        size: height and width that the model works at.
        num_frames: frames of a sample.
        strides: pixels of a position of the grid of codes, and frames of a latent frame.
        encode: gives codes.

    Raises:
        GenrefineError: options without a picture, or pictures, masks or numbers that do not fit.
    """
    if image is None:
        if options.given:
            raise GenrefineError(f"{options.given[0]} says how a picture is edited; give image=, or leave it out")
        return []
    strength = options.effective_strength
    if num_frames > 1:
        return [_edit(*clip_frames(image, num_frames), options, strength, size, strides, encode)] * count
    images, masks = _each(image, count, "image"), _each(options.mask_image, count, "mask_image")
    made: dict[tuple[int, int], Edit] = {}
    for own, mask in zip(images, masks, strict=True):
        if (id(own), id(mask)) not in made:
            one = replace(options, mask_image=mask)
            made[id(own), id(mask)] = _edit([read_picture(own, "image")], [True], one, strength, size, strides, encode)
    return [made[id(own), id(mask)] for own, mask in zip(images, masks, strict=True)]


def _each(values: Any, count: int, name: str) -> list[Any]:
    listed = list(values) if isinstance(values, (list, tuple)) else [values]
    if len(listed) not in (1, count):
        raise GenrefineError(f"{name} must be one for all {count} prompts or one each; got {len(listed)}")
    return listed * count if len(listed) == 1 else listed


def clip_frames(image: Any, num_frames: int) -> tuple[list[Image.Image], list[bool]]:
    """Return the frames of a clip and which of them are given; those between are stood for by the nearest one.

    Args:
        image: frames from the first one on, None for those that are not given; or the path of a film.
        num_frames: of the clip.

    Raises:
        GenrefineError: too many frames, none at all, or frames of several sizes.
    """
    if isinstance(image, (str, Path)) and Path(image).suffix.lower() in FILMS:
        with Film(Path(image), MAX_PIXELS) as film:
            listed: list[Any] = []
            for shot in film.shots(Fraction(0)):
                listed.append(read_picture(shot.image(), "image"))
                if len(listed) == num_frames:
                    break
    else:
        listed = list(image) if isinstance(image, (list, tuple)) else [image]
    if not 1 <= len(listed) <= num_frames or all(frame is None for frame in listed):
        raise GenrefineError(f"image must be 1 to {num_frames} frames of the clip, not all None; got {len(listed)}")
    listed += [None] * (num_frames - len(listed))
    read = {index: read_picture(frame, "image") for index, frame in enumerate(listed) if frame is not None}
    if len({frame.size for frame in read.values()}) > 1:
        raise GenrefineError("the frames of a clip must have one size; resize them")
    nearest = [min(read, key=lambda given: abs(given - index)) for index in range(num_frames)]
    return [read[index] for index in nearest], [index in read for index in range(num_frames)]


def _edit(
    frames: list[Image.Image],
    given: list[bool],
    options: EditOptions,
    strength: float,
    size: tuple[int, int],
    strides: tuple[int, int],
    encode: Encode,
) -> Edit:
    is_whole = options.mask_image is None and options.outpaint is None and all(given)
    masks = options.mask_image if isinstance(options.mask_image, (list, tuple)) else [options.mask_image] * len(frames)
    if len(masks) != len(frames):
        raise GenrefineError(f"mask_image must be one for all frames or one each; got {len(masks)} for {len(frames)}")
    canvases = []
    for frame, mask in zip(frames, masks, strict=True):
        marked = np.full(frame.size[::-1], is_whole) if mask is None else read_mask(mask, frame.size)
        if options.outpaint is not None:
            frame, marked = grow(frame, marked, options.outpaint)
        canvases.append(Canvas(frame, marked, size))
    codes = encode(torch.cat([canvas.pixels() for canvas in canvases], dim=2))[0].cpu()
    touched = torch.stack([canvas.released(strides[0]) for canvas in canvases])
    released = torch.zeros(codes.shape[1:], dtype=torch.bool)
    for latent in range(codes.shape[1]):
        own = slice(0, 1) if latent == 0 else slice(1 + (latent - 1) * strides[1], 1 + latent * strides[1])
        released[latent] = touched[own].any(0) if any(given[own]) else True
    # Frames to be made show nothing of those that stand for them.
    canvases = [
        canvas if is_given else replace(canvas, mask=np.ones_like(canvas.mask))
        for canvas, is_given in zip(canvases, given, strict=True)
    ]
    if strength == 0:
        released = torch.zeros_like(released)
    return Edit(codes, ~released.expand_as(codes), canvases)


def edited_settings(settings: SamplingSettings, edits: Sequence[Edit], strength: float) -> SamplingSettings:
    """Return the settings of a run that begins at signal 1 - strength: the step budget shrinks with it."""
    if not edits:
        return settings
    if all(bool(edit.fixed.all()) for edit in edits):
        return replace(settings, steps=FixedSteps(1))
    if strength in (0, 1):
        return settings
    schedule = ScheduleFrom(settings.schedule, 1 - strength)
    return replace(settings, steps=shortened(settings.steps, strength), schedule=schedule)


def known_codes(edits: Sequence[Edit], settings: SamplingSettings, device: torch.device) -> KnownCodes | None:
    """Return what the sampler is told of pictures that are edited; None where nothing is known."""
    if not edits:
        return None
    codes = torch.stack([edit.codes for edit in edits]).to(device)
    fixed = torch.stack([edit.fixed for edit in edits]).to(device)
    start = settings.schedule.start if isinstance(settings.schedule, ScheduleFrom) else 0.0
    return KnownCodes(codes, fixed, start, is_counted=not isinstance(settings.signal, ScheduledSignal))
