"""What a refiner thinks of the codes of a picture, position by position: exact likelihoods, read off its prediction.

At signal t and with the codes corrupted by the forward process, the network gives every code a probability. Averaged
over signals and draws, over the codes that the corruption hid, and over the channels of a position,

    surprise    -log p(code | prompt)                             high where a picture is damaged
    change      log p(code | old prompt) - log p(code | new)      high where the new prompt asks for another picture

in nats per code. A map can be looked at, thresholded, and given back as a mask. (RefineEdit, arXiv 2609.20633, compares
two trajectories of sampling in this way; here both prompts look at the picture itself.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from genrefine.corruption import corrupt
from genrefine.errors import GenrefineError, whole_number
from genrefine.pipelines.canvas import Canvas, read_picture
from genrefine.sampling.guidance import Guidance, apply_guidance

SIGNALS = (0.3, 0.5, 0.7)
DRAWS = 4


@dataclass(frozen=True, eq=False)
class CodeMap:
    """A number for every position of the grid of codes of a picture.

    Args:
        values: nats per code.
        canvas: the picture.
        stride: pixels of a side of one position, as the model sees it.
    """

    values: Float[Tensor, "rows columns"]
    canvas: Canvas
    stride: int

    @property
    def threshold(self) -> float:
        """The value that parts the positions best in two (Otsu: least variance within the parts)."""
        ordered = self.values.flatten().double().sort().values
        if len(ordered) < 2:
            return float(ordered[0])
        spread = [_squares(ordered[:cut]) + _squares(ordered[cut:]) for cut in range(1, len(ordered))]
        best = min(range(len(spread)), key=spread.__getitem__)
        return float((ordered[best] + ordered[best + 1]) / 2)

    def mask(self, threshold: float | None = None, grow: int = 1) -> Image.Image:
        """Return what lies above a threshold as white, of the size of the picture.

        Args:
            threshold: nats per code; default is `self.threshold`.
            grow: positions around that are marked too: what stands at the edge of a thing belongs to it in part.
        """
        above = self.values > (self.threshold if threshold is None else threshold)
        wide = torch.nn.functional.max_pool2d(above[None].float(), 2 * grow + 1, 1, grow)[0]
        return self._at_picture(Image.fromarray(wide.numpy().astype(np.uint8) * 255))

    def picture(self) -> Image.Image:
        """Return the map in grey, from its smallest value to its largest, of the size of the picture."""
        low, high = self.values.min(), self.values.max()
        grey = ((self.values - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
        return self._at_picture(Image.fromarray(grey.numpy()))

    def _at_picture(self, grid: Image.Image) -> Image.Image:
        large = grid.resize((grid.width * self.stride, grid.height * self.stride), Image.Resampling.NEAREST)
        left, top, width, height = self.canvas.box
        inner = large.crop((left, top, left + width, top + height))
        return inner.resize(self.canvas.original.size, Image.Resampling.NEAREST)


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
) -> CodeMap:
    """Return where a prompt or class asks for another picture than the one there is.

    Args:
        pipe: a class or text pipeline.
        image: the picture, as `prepare` takes it.
        old: what it shows: a prompt or class.
        new: what it is to show.
        signals: t at which the network is asked, each in (0, 1).
        draws: corruptions at each.
        seed: of the corruptions.

    Raises:
        GenrefineError: signals or draws out of range, or a picture or prompt that cannot be read.
    """
    likelihoods, canvas = _log_probabilities(pipe, image, [old, new], signals, draws, seed)
    return CodeMap(likelihoods[0] - likelihoods[1], canvas, pipe.visual_tokenizer.spatial_stride)


def surprise_map(
    pipe: Any,
    image: Any,
    what: Any,
    signals: Sequence[float] = SIGNALS,
    draws: SupportsIndex = DRAWS,
    seed: SupportsIndex = 0,
) -> CodeMap:
    """Return how unlikely each position of a picture is; arguments and errors as in `change_map`."""
    likelihoods, canvas = _log_probabilities(pipe, image, [what], signals, draws, seed)
    return CodeMap(-likelihoods[0], canvas, pipe.visual_tokenizer.spatial_stride)


@torch.no_grad()
def _log_probabilities(
    pipe: Any, image: Any, whats: list[Any], signals: Sequence[float], draws: SupportsIndex, seed: SupportsIndex
) -> tuple[Float[Tensor, "whats rows columns"], Canvas]:
    draws, seed = whole_number("draws", draws), whole_number("seed", seed)
    if not signals or not all(0 < signal < 1 for signal in signals) or draws < 1:
        raise GenrefineError(f"a map needs signals in (0, 1) and at least one draw; got {signals} and {draws}")
    frame = read_picture(image, "image")
    canvas = Canvas(frame, np.zeros(frame.size[::-1], dtype=bool), pipe.picture_size)
    codes: Int[Tensor, "1 channels t h w"] = pipe.encode(canvas.pixels()).cpu()
    request = pipe.prepare(whats, seed=0, guidance_scale=1.0)
    guided = apply_guidance(pipe.refiner, pipe._condition(request), Guidance(1.0))
    classes = pipe.refiner.config.code_classes
    generator = torch.Generator().manual_seed(seed)
    total, count = torch.zeros(len(whats), *codes.shape[1:]), torch.zeros(codes.shape[1:])
    for signal in signals:
        for _ in range(draws):
            corrupted = corrupt(codes, torch.tensor([float(signal)]), classes, generator)
            noisy = corrupted.noisy.expand(len(whats), *codes.shape[1:]).to(pipe._execution_device)
            logits = guided(noisy, torch.full((len(whats),), float(signal))).conditional.float().cpu()
            own = codes.expand(len(whats), *codes.shape[1:]).long()[..., None]
            chosen = torch.log_softmax(logits, dim=-1).gather(-1, own)[..., 0]
            hidden = ~corrupted.kept[0]
            total += chosen * hidden
            count += hidden
    # Over draws, then over channels: a position is as likely as its codes are on average.
    return (total.sum(1) / count.sum(0).clamp_min(1))[:, 0], canvas
