"""Building blocks of the causal autoencoder (method: arXiv 2604.13030, section 3.1; layout of the published weights).

Shapes are ``batch channels frames height width`` throughout. A down stage halves height and width and, where it is
temporal, the frames after the first; an up stage is its mirror. Around every stage runs a shortcut without parameters:
blocks of pixels are averaged into channels on the way down and channels are duplicated into pixels on the way up.
The first frame is always alone: a temporal stage passes it unchanged, so an image is a clip of one frame.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from genrefine.errors import GenrefineError
from genrefine.nn.causal_conv import Cache, CausalConv3d, PerFrame, starts

Clip = Float[Tensor, "batch _ _ _ _"]  # channels, frames, height and width change from stage to stage


class ChannelNorm(nn.Module):
    """Scale every position to length sqrt(channels), then by a learned factor per channel."""

    def __init__(self, channels: int, num_axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * num_axes))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize over the channel axis; the statistics are float32."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        return x * (x.shape[1] ** 0.5 / length).to(x.dtype) * self.gamma.to(x.dtype)


class ResidualBlock(nn.Module):
    """Norm, SiLU, causal convolution over ``time`` frames, twice, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, time: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, (time, 3, 3))
        self.norm2 = ChannelNorm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, (time, 3, 3))
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else CausalConv3d(in_channels, out_channels, (1, 1, 1))
        )

    def forward(self, x: Clip, cache: Cache | None = None) -> Clip:
        """Return ``shortcut(x) + branch(x)``."""
        h = self.conv1(F.silu(self.norm1(x)), cache)
        h = self.conv2(F.silu(self.norm2(h)), cache)
        return self.shortcut(x) + h


class SpatialAttention(nn.Module):
    """Let the positions of one frame attend to each other, with a single head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, num_axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "frames channels h w"]) -> Float[Tensor, "frames channels h w"]:
        """Attend within each frame and add the result."""
        height = x.shape[2]
        qkv = rearrange(self.to_qkv(self.norm(x)), "n (three c) h w -> three n 1 (h w) c", three=3)
        y = F.scaled_dot_product_attention(*qkv.unbind(0))  # n 1 (h w) c
        return x + self.proj(rearrange(y, "n 1 (h w) c -> n c h w", h=height))


class Middle(nn.Module):
    """Residual block, spatial attention, residual block."""

    def __init__(self, channels: int, time: int) -> None:
        super().__init__()
        self.block1 = ResidualBlock(channels, channels, time)
        self.attention = PerFrame(SpatialAttention(channels))
        self.block2 = ResidualBlock(channels, channels, time)

    def forward(self, x: Clip, cache: Cache | None = None) -> Clip:
        """Return a clip of the same shape."""
        return self.block2(self.attention(self.block1(x, cache)), cache)


class Downsample(nn.Module):
    """Halve height and width by a strided convolution and, if temporal, every pair of frames after the first."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.spatial = PerFrame(nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2)))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Clip, cache: Cache | None = None) -> Clip:
        """Return the smaller clip; ``1 + 2n`` first frames become ``1 + n``, ``2n`` later ones ``n``."""
        x = self.spatial(x)
        if self.time_conv is None:
            return x
        past = cache.get(self) if cache is not None else None
        if cache is not None:
            cache.put(self, x[:, :, -1:])
        if past is not None:
            return self.time_conv(torch.cat([past, x], dim=2))
        return x if x.shape[2] == 1 else torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)


class Upsample(nn.Module):
    """Double height and width and, if temporal, every frame after the first."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.spatial = PerFrame(
            nn.Sequential(
                nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(channels, channels, 3, padding=1)
            )
        )
        self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Clip, cache: Cache | None = None) -> Clip:
        """Return the larger clip; ``1 + n`` first frames become ``1 + 2n``, ``n`` later ones ``2n``."""
        if self.time_conv is not None:
            first, rest = (x[:, :, :1], x[:, :, 1:]) if starts(cache, self) else (x[:, :, :0], x)
            if rest.shape[2]:  # the first frame is outside this convolution: the second one starts from zeros
                rest = rearrange(self.time_conv(rest, cache), "b (two c) t h w -> b c (t two) h w", two=2)
            x = torch.cat([first, rest], dim=2) if rest.shape[2] else first
        return self.spatial(x)


def average_down(x: Clip, out_channels: int, time: int, space: int) -> Clip:
    """Move blocks of ``time x space x space`` pixels into channels and average them to ``out_channels``.

    A number of frames that ``time`` does not divide is filled with zero frames in front.
    """
    if time == space == 1 and x.shape[1] == out_channels:
        return x
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % time, 0))
    wide = rearrange(x, "b c (t p) (h q) (w r) -> b (c p q r) t h w", p=time, q=space, r=space)
    return reduce(wide, "b (o group) t h w -> b o t h w", "mean", o=out_channels)


def duplicate_up(x: Clip, out_channels: int, time: int, space: int, first: bool) -> Clip:
    """Duplicate channels into blocks of ``time x space x space`` pixels; the clip's first frame stays one frame."""
    copies = out_channels * time * space * space // x.shape[1]
    wide = repeat(x, "b c t h w -> b (c copies) t h w", copies=copies)
    y = rearrange(wide, "b (o p q r) t h w -> b o (t p) (h q) (w r)", p=time, q=space, r=space)
    return y[:, :, time - 1 :] if first else y


class DownStage(nn.Module):
    """Residual blocks and a downsampling, with the average shortcut around both."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, time: int, down: bool, temporal: bool
    ) -> None:
        super().__init__()
        self.time, self.space, self.out_channels = 2 if temporal else 1, 2 if down else 1, out_channels
        _check_ratio(in_channels * self.time * self.space**2, out_channels)
        widths = [in_channels] + [out_channels] * num_blocks
        self.blocks = nn.ModuleList(ResidualBlock(a, b, time) for a, b in pairwise(widths))
        self.downsample = Downsample(out_channels, temporal) if down else None

    def forward(self, x: Clip, cache: Cache | None = None) -> Clip:
        """Return the stage's output plus the averaged input."""
        shortcut = average_down(x, self.out_channels, self.time, self.space)
        for block in self.blocks:
            x = block(x, cache)
        if self.downsample is not None:
            x = self.downsample(x, cache)
        return x + shortcut


class UpStage(nn.Module):
    """Residual blocks and an upsampling, with the duplicate shortcut around both; the last stage has neither."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, time: int, up: bool, temporal: bool
    ) -> None:
        super().__init__()
        self.time, self.out_channels = 2 if temporal else 1, out_channels
        if up:
            _check_ratio(out_channels * self.time * 4, in_channels)
        widths = [in_channels] + [out_channels] * num_blocks
        self.blocks = nn.ModuleList(ResidualBlock(a, b, time) for a, b in pairwise(widths))
        self.upsample = Upsample(out_channels, temporal) if up else None

    def forward(self, x: Clip, cache: Cache | None = None) -> Clip:
        """Return the stage's output, plus the duplicated input where the stage upsamples."""
        inside = x
        for block in self.blocks:
            inside = block(inside, cache)
        if self.upsample is None:
            return inside
        first = starts(cache, self)
        return self.upsample(inside, cache) + duplicate_up(x, self.out_channels, self.time, 2, first)


def _check_ratio(many: int, few: int) -> None:
    if many % few:
        raise GenrefineError(
            f"a stage shortcut needs channels that divide; got {many} into {few}; "
            "make neighboring channel multipliers multiples of each other and the last two equal"
        )
