"""Convolutions over (batch, channels, frames, height, width) that never look at a later frame.

A causal convolution of temporal extent ``k`` sees the frame itself and the ``k - 1`` before it; before the first frame
lie zeros. A clip of one frame therefore needs only the last temporal slice of the kernel, which is a 2-D convolution.

A `Cache` makes the same network run chunk by chunk: each layer keeps the few frames that its next chunk needs, so that
any chunking of a clip gives what the whole clip gives.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Cache:
    """Hold what each layer must remember between two chunks of one clip."""

    def __init__(self) -> None:
        self._frames: dict[int, Tensor] = {}
        self._started: set[int] = set()

    def starts(self, layer: nn.Module) -> bool:
        """Say whether ``layer`` meets the clip for the first time, and remember that it has."""
        first = id(layer) not in self._started
        self._started.add(id(layer))
        return first

    def get(self, layer: nn.Module) -> Tensor | None:
        """Return the frames ``layer`` kept, if any."""
        return self._frames.get(id(layer))

    def put(self, layer: nn.Module, frames: Tensor) -> None:
        """Keep ``frames`` for the next chunk of ``layer``."""
        self._frames[id(layer)] = frames


def starts(cache: Cache | None, layer: nn.Module) -> bool:
    """Say whether this call holds the first frame of the clip; without a cache every call does."""
    return cache is None or cache.starts(layer)


class CausalConv3d(nn.Conv3d):
    """Convolve in space with padding and in time causally.

    Args:
        in_channels, out_channels: channel counts.
        kernel: (frames, height, width), odd in space.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))
        self.history = kernel[0] - 1

    def forward(
        self, x: Float[Tensor, "batch channels frames height width"], cache: Cache | None = None
    ) -> Float[Tensor, "batch out frames height width"]:
        """Return as many frames as came; with a cache, continue the clip of the calls before."""
        past = cache.get(self) if cache is not None and self.history else None
        if cache is not None and self.history:
            kept = x if past is None else torch.cat([past, x], dim=2)
            cache.put(self, kept[:, :, -self.history :])
        if past is None and x.shape[2] == 1:  # zeros before the frame: only the last slice of the kernel meets it
            y = F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, padding=self.padding[1:])  # type: ignore[arg-type]
            return y.unsqueeze(2)
        if past is not None:
            x = torch.cat([past, x], dim=2)
        missing = self.history - (0 if past is None else past.shape[2])
        if missing:
            x = F.pad(x, (0, 0, 0, 0, missing, 0))
        return super().forward(x)


class PerFrame(nn.Module):
    """Apply a 2-D layer to every frame by itself."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "batch channels frames h w"]) -> Float[Tensor, "batch out frames p q"]:
        """Fold frames into the batch, apply the layer, unfold."""
        if x.shape[2] == 1:
            return self.layer(x[:, :, 0]).unsqueeze(2)
        frames: Any = x.transpose(1, 2)
        y = self.layer(frames.flatten(0, 1))
        return y.unflatten(0, frames.shape[:2]).transpose(1, 2)
