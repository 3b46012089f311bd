"""Perceptual distance between pictures, a term of the visual tokenizer's loss (arXiv 2604.13030, tokenizer training).

For feature maps `f_l(x)` of a frozen network, each position scaled to unit length over its channels,

    d(a, b) = sum_l mean over frames and positions of || f_l(a) / |f_l(a)| - f_l(b) / |f_l(b)| ||^2

which is LPIPS (arXiv 1801.03924) with all channel weights one. The paper uses LPIPS over VGG; here the network is
EfficientNet-Lite0 (Apache-2.0), or any network of the user's in a `.pt2` file. A term lies in [0, 4]. Gradients flow to
the pixels only. Pictures are compared at their own size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genrefine.errors import GenrefineError
from genrefine.evaluation.efficientnet import NUM_BLOCKS, EfficientNetLite0
from genrefine.evaluation.program import Program
from genrefine.evaluation.script import named, read_script, vectors

SMALLEST = 16


@runtime_checkable
class PerceptualDistance(Protocol):
    """Any callable that says how different two batches of clips look."""

    def __call__(
        self,
        pixels_a: Float[Tensor, "batch 3 frames height width"],
        pixels_b: Float[Tensor, "batch 3 frames height width"],
    ) -> Float[Tensor, ""]:
        """Return the distance, 0 for equal clips, differentiable in both arguments."""


@runtime_checkable
class NamedPerceptual(PerceptualDistance, Protocol):
    """A distance that says what it rests on, as an evaluation must."""

    description: str


class EfficientNetPerceptual(nn.Module):
    """Compare clips by maps of EfficientNet-Lite0.

    Args:
        blocks: which blocks' outputs to compare, counted from 0. The default takes the last block of each resolution
            down to 1/16: 16, 24, 40 and 112 channels at strides 2, 4, 8, 16. At 64x64 the fifth, 320 channels at stride
            32, would add half the time for four positions.

    Raises:
        GenrefineError: a block outside 0..15, or the `eval` extra is not installed.
    """

    def __init__(self, blocks: Sequence[int] = (0, 2, 4, 10)) -> None:
        super().__init__()
        if not blocks or min(blocks) < 0 or max(blocks) >= NUM_BLOCKS or len(set(blocks)) != len(blocks):
            raise GenrefineError(f"blocks must be different numbers in 0..{NUM_BLOCKS - 1}; got {tuple(blocks)}")
        self.blocks = tuple(sorted(blocks))
        self.description = f"EfficientNet-Lite0, blocks {', '.join(map(str, self.blocks))}"
        self.network = EfficientNetLite0(num_blocks=max(blocks) + 1)

    def forward(
        self,
        pixels_a: Float[Tensor, "batch 3 frames height width"],
        pixels_b: Float[Tensor, "batch 3 frames height width"],
    ) -> Float[Tensor, ""]:
        """Return the summed distance of the maps."""
        if min(pixels_a.shape[-2:]) < SMALLEST:
            height, width = pixels_a.shape[-2:]
            raise GenrefineError(
                f"the perceptual distance of EfficientNet-Lite0 needs pictures of {SMALLEST} pixels a side; "
                f"got {width} x {height}; leave it out (loss.perceptual=0, --pixels-only)"
            )
        return map_distance(
            self.network.maps(_frames(pixels_a), self.blocks), self.network.maps(_frames(pixels_b), self.blocks)
        )


class ScriptedPerceptual(nn.Module):
    """Compare clips by LPIPS over VGG-16 (arXiv 1801.03924), from StyleGAN's TorchScript `vgg16.pt`.

    It is called as `network(levels, resize_images=False, return_lpips=True)` with floats 0..255 and returns one vector
    for each picture; their squared distance is LPIPS.

    Args:
        path: the file, a program: open only one that you trust.

    Raises:
        GenrefineError: the file is no TorchScript; at the first call, it refuses that or returns no vectors.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.network, self.path = read_script(path), Path(path)
        self.description = f"LPIPS ({named(path)})"

    def forward(
        self,
        pixels_a: Float[Tensor, "batch 3 frames height width"],
        pixels_b: Float[Tensor, "batch 3 frames height width"],
    ) -> Float[Tensor, ""]:
        """Return the mean distance of the frames."""
        a, b = (self._vectors(_frames(one).float()) for one in (pixels_a, pixels_b))
        return (a - b).square().sum(dim=1).mean()

    def _vectors(self, frames: Tensor) -> Tensor:
        return vectors(self.network, self.path, (frames + 1) * 127.5, resize_images=False, return_lpips=True)


class ProgramPerceptual(nn.Module):
    """Compare clips by the maps of a user's network.

    Args:
        path: a `.pt2` file (see `genrefine.evaluation.program`) whose network returns a list of feature maps, each
            `(batch, channels, height, width)`.

    Raises:
        GenrefineError: the file is missing or holds no program; at the first call, what it returns is no list of maps.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.program = Program(path)

    def forward(
        self,
        pixels_a: Float[Tensor, "batch 3 frames height width"],
        pixels_b: Float[Tensor, "batch 3 frames height width"],
    ) -> Float[Tensor, ""]:
        """Return the summed distance of the maps."""
        return map_distance(self._maps(pixels_a), self._maps(pixels_b))

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        frames = _frames(pixels)
        maps = self.program(frames)
        if not (
            isinstance(maps, list | tuple)
            and maps
            and all(isinstance(m, Tensor) and m.ndim == 4 and len(m) == len(frames) for m in maps)
        ):
            raise GenrefineError(
                f"{self.program.path} must return a list of maps (batch, channels, height, width) for {len(frames)} "
                f"frames; got {_described(maps)}; export a network that returns its feature maps"
            )
        return list(maps)


def map_distance(
    maps_a: Sequence[Float[Tensor, "batch _ _ _"]], maps_b: Sequence[Float[Tensor, "batch _ _ _"]]
) -> Float[Tensor, ""]:
    """Sum over maps the mean squared distance of channel-unit vectors, in float32."""
    # F.normalize has gradient zero, not NaN, at a position whose channels are all zero.
    units = [
        (F.normalize(a.float(), dim=1, eps=1e-6), F.normalize(b.float(), dim=1, eps=1e-6))
        for a, b in zip(maps_a, maps_b, strict=True)
    ]
    total: Tensor = sum((a - b).square().sum(dim=1).mean() for a, b in units)  # type: ignore[assignment]
    return total


def _frames(pixels: Tensor) -> Tensor:
    return rearrange(pixels, "batch rgb frames height width -> (batch frames) rgb height width")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_described(item) for item in value) + "]"
    return type(value).__name__
