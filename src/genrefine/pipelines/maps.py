"""What a refiner thinks of the codes of a picture or clip, position by position: exact, read off its prediction.

At signal t and with the codes corrupted by the forward process, the network gives every code a probability. Averaged
over signals and draws, over the codes that the corruption hid, and over the channels of a position,

    surprise    -log p(code | prompt)                             high where a picture is damaged
    change      log p(code | old prompt) - log p(code | new)      high where the new prompt asks for another picture
    entropy     -sum_k p_k log p_k of the prediction              high where a picture could as well be otherwise

in nats per code. A map can be looked at, thresholded, and given back as a mask; a mask of a share of the positions, by
entropy or at random, makes a variation. (RefineEdit, arXiv 2609.20633, compares two trajectories of sampling in this
way; here both prompts look at the picture itself.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from genrefine.corruption import corrupt
from genrefine.errors import GenrefineError, whole_number
from genrefine.pipelines.canvas import Canvas, read_picture
from genrefine.pipelines.editing import clip_frames
from genrefine.sampling.guidance import Guidance, apply_guidance

SIGNALS = (0.3, 0.5, 0.7)
DRAWS = 4
Pictures = Image.Image | list[Image.Image]


@dataclass(frozen=True, eq=False)
class CodeMap:
    """A number for every position of the grid of codes of a picture or clip.

    Args:
        values: nats per code.
        canvases: the frames.
        strides: pixels of a side of one position, as the model sees it, and frames of a latent frame.
    """

    values: Float[Tensor, "t rows columns"]
    canvases: list[Canvas]
    strides: tuple[int, int]

    @property
    def threshold(self) -> float:
        """The value that parts the positions best in two (Otsu: least variance within the parts)."""
        ordered = self.values.flatten().double().sort().values
        if len(ordered) < 2:
            return float(ordered[0])
        spread = [_squares(ordered[:cut]) + _squares(ordered[cut:]) for cut in range(1, len(ordered))]
        best = min(range(len(spread)), key=spread.__getitem__)
        return float((ordered[best] + ordered[best + 1]) / 2)

    def above(self, threshold: float | None = None, share: float | None = None) -> Bool[Tensor, "t rows columns"]:
        """Return the positions above a threshold, or the share of them with the largest values, to the nearest one.

        Args:
            threshold: nats per code; default is `self.threshold`.
            share: of the positions, in [0, 1], in place of a threshold.

        Raises:
            GenrefineError: both are given, or a share out of range.
        """
        if share is None:
            return self.values > (self.threshold if threshold is None else threshold)
        if threshold is not None or not 0 <= share <= 1:
            raise GenrefineError(f"a mask has a threshold, or a share in [0, 1]; got {threshold} and {share}")
        chosen = torch.zeros(self.values.numel(), dtype=torch.bool)
        order = self.values.flatten().argsort(descending=True, stable=True)
        chosen[order[: round(share * len(order))]] = True
        return chosen.reshape(self.values.shape)

    def mask(self, threshold: float | None = None, grow: int = 1, share: float | None = None) -> Pictures:
        """Return what `above` finds as white, of the size of the picture; of a clip one mask per frame.

        Args:
            threshold: as in `above`.
            grow: positions around that are marked too: what stands at the edge of a thing belongs to it in part.
            share: as in `above`; with `grow=0` so many positions are marked.

        Raises:
            GenrefineError: as in `above`.
        """
        marked = self.above(threshold, share)[:, None].float()
        wide = torch.nn.functional.max_pool2d(marked, 2 * grow + 1, 1, grow)[:, 0]
        return self._at_pictures(wide.numpy().astype(np.uint8) * 255)

    def picture(self) -> Pictures:
        """Return the map in grey, from its smallest value to its largest, of the size of the picture."""
        low, high = self.values.min(), self.values.max()
        grey = ((self.values - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
        return self._at_pictures(grey.numpy())

    def _at_pictures(self, grids: Any) -> Pictures:
        stride, frames = self.strides
        shown = []
        for number, canvas in enumerate(self.canvases):
            grid = Image.fromarray(grids[-(-number // frames)])  # the first latent frame is one frame, the others more
            large = grid.resize((grid.width * stride, grid.height * stride), Image.Resampling.NEAREST)
            left, top, width, height = canvas.box
            inner = large.crop((left, top, left + width, top + height))
            shown.append(inner.resize(canvas.original.size, Image.Resampling.NEAREST))
        return shown if len(shown) > 1 else shown[0]


def _squares(values: Tensor) -> float:
    return float((values - values.mean()).square().sum())


def change_map(
    pipe: Any,
    image: Any,
    old: Any,
    new: Any,
    signals: Sequence[float] = SIGNALS,
    draws: SupportsIndex = DRAWS,
    seed: SupportsIndex = 0,
    **size: SupportsIndex | None,
) -> CodeMap:
    """Return where a prompt or class asks for another picture than the one there is.

    Args:
        pipe: a class or text pipeline.
        image: the picture, as `prepare` takes it; with `num_frames` the clip, all its frames or the path of a film.
        old: what it shows: a prompt or class.
        new: what it is to show.
        signals: t at which the network is asked, each in (0, 1).
        draws: corruptions at each.
        seed: of the corruptions.
        size: `height`, `width` and `num_frames` of a text pipeline, as `prepare` takes them.

    Raises:
        GenrefineError: signals, draws or sizes out of range, or a picture or prompt that cannot be read.
    """
    asked = _ask(pipe, image, [old, new], signals, draws, seed, size)
    return asked.map(asked.likelihoods[0] - asked.likelihoods[1])


def surprise_map(
    pipe: Any,
    image: Any,
    what: Any,
    signals: Sequence[float] = SIGNALS,
    draws: SupportsIndex = DRAWS,
    seed: SupportsIndex = 0,
    **size: SupportsIndex | None,
) -> CodeMap:
    """Return how unlikely each position of a picture is; arguments and errors as in `change_map`."""
    asked = _ask(pipe, image, [what], signals, draws, seed, size)
    return asked.map(-asked.likelihoods[0])


def entropy_map(
    pipe: Any,
    image: Any,
    what: Any,
    signals: Sequence[float] = SIGNALS,
    draws: SupportsIndex = DRAWS,
    seed: SupportsIndex = 0,
    **size: SupportsIndex | None,
) -> CodeMap:
    """Return how open each position of a picture is; arguments and errors as in `change_map`."""
    asked = _ask(pipe, image, [what], signals, draws, seed, size)
    return asked.map(asked.entropies[0])


def random_map(pipe: Any, image: Any, seed: SupportsIndex = 0, **size: SupportsIndex | None) -> CodeMap:
    """Return uniform random numbers for the positions of a picture: a mask of a share of them makes a variation.

    Args:
        pipe, image, size: as in `change_map`.
        seed: of the numbers.

    Raises:
        GenrefineError: as in `change_map`.
    """
    generator = torch.Generator().manual_seed(whole_number("seed", seed))
    canvases = _canvases(pipe, image, _prepared(pipe, None, size))
    spatial, temporal = _strides(pipe)
    height, width = canvases[0].size
    latent = 1 + (len(canvases) - 1) // temporal
    return CodeMap(
        torch.rand(latent, height // spatial, width // spatial, generator=generator), canvases, (spatial, temporal)
    )


@dataclass(frozen=True, eq=False)
class _Asked:
    """What the network said of the positions of a picture, under each prompt or class."""

    likelihoods: Float[Tensor, "whats t rows columns"]
    entropies: Float[Tensor, "whats t rows columns"]
    canvases: list[Canvas]
    strides: tuple[int, int]

    def map(self, values: Float[Tensor, "t rows columns"]) -> CodeMap:
        return CodeMap(values, self.canvases, self.strides)


def _strides(pipe: Any) -> tuple[int, int]:
    return pipe.visual_tokenizer.spatial_stride, pipe.visual_tokenizer.temporal_stride


def _prepared(pipe: Any, whats: list[Any] | None, size: dict[str, Any]) -> Any:
    given = {name: value for name, value in size.items() if value is not None}
    return pipe.prepare(whats, seed=0, guidance_scale=1.0, **given)


def _canvases(pipe: Any, image: Any, request: Any) -> list[Canvas]:
    """Return the frames at the size that the model is to work at."""
    own, settings = pipe.picture_size, request.settings
    working = settings.get("height", own[0]), settings.get("width", own[1])
    num_frames = settings.get("num_frames", 1)
    if num_frames == 1:
        frames = [read_picture(image, "image")]
    else:
        frames, is_given = clip_frames(image, num_frames)
        if not all(is_given):
            raise GenrefineError(
                f"a map looks at codes that are there: image must hold all {num_frames} frames; got {sum(is_given)}"
            )
    return [Canvas(frame, np.zeros(frame.size[::-1], dtype=bool), working) for frame in frames]


@torch.no_grad()
def _ask(
    pipe: Any,
    image: Any,
    whats: list[Any],
    signals: Sequence[float],
    draws: SupportsIndex,
    seed: SupportsIndex,
    size: dict[str, Any],
) -> _Asked:
    draws, seed = whole_number("draws", draws), whole_number("seed", seed)
    if not signals or not all(0 < signal < 1 for signal in signals) or draws < 1:
        raise GenrefineError(f"a map needs signals in (0, 1) and at least one draw; got {signals} and {draws}")
    request = _prepared(pipe, whats, size)
    canvases = _canvases(pipe, image, request)
    codes: Int[Tensor, "1 channels t h w"] = pipe.encode(torch.cat([one.pixels() for one in canvases], dim=2)).cpu()
    guided = apply_guidance(pipe.refiner, pipe._condition(request), Guidance(1.0))
    classes = pipe.refiner.config.code_classes
    generator = torch.Generator().manual_seed(seed)
    shape = len(whats), *codes.shape[1:]
    likelihoods, entropies, count = torch.zeros(shape), torch.zeros(shape), torch.zeros(codes.shape[1:])
    own = codes.expand(shape).long()[..., None]
    for signal in signals:
        for _ in range(draws):
            corrupted = corrupt(codes, torch.tensor([float(signal)]), classes, generator)
            noisy = corrupted.noisy.expand(shape).to(pipe._execution_device)
            logits = guided(noisy, torch.full((len(whats),), float(signal))).conditional.float().cpu()
            hidden = ~corrupted.kept[0]
            likelihoods += torch.log_softmax(logits, dim=-1).gather(-1, own)[..., 0] * hidden
            entropies += torch.special.entr(torch.softmax(logits, dim=-1)).sum(-1) * hidden
            count += hidden
    # Over draws, then over channels: a position is as likely as its codes are on average.
    hidden_times = count.sum(0).clamp_min(1)
    return _Asked(likelihoods.sum(1) / hidden_times, entropies.sum(1) / hidden_times, canvases, _strides(pipe))
