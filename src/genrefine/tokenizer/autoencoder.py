"""Encoder and decoder: pixels <-> latent features, causal in time (method: arXiv 2604.13030, section 3.1).

    encoder: conv -> down stages (each halves height and width, the last only refines) -> middle -> norm, SiLU, conv
    decoder: conv -> middle -> up stages (each doubles, the last only refines) -> norm, SiLU, conv

Both run on pixels unshuffled 2x2 into channels; with ``n`` channel multipliers the spatial stride is ``2 * 2^(n-1)``.
``temporal_downsample`` says for each halving stage of the encoder whether it also halves time; the decoder mirrors it.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genrefine.nn.causal_conv import Cache, CausalConv3d
from genrefine.tokenizer.blocks import ChannelNorm, DownStage, Middle, UpStage

Clip = Float[Tensor, "batch _ _ _ _"]


class Encoder(nn.Module):
    """Turn unshuffled pixels into features of ``out_channels`` channels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        multipliers: Sequence[int],
        num_blocks: int,
        time: int,
        temporal_downsample: Sequence[bool],
    ) -> None:
        super().__init__()
        widths = [width] + [width * m for m in multipliers]
        last = len(multipliers) - 1
        self.conv_in = CausalConv3d(in_channels, width, (time, 3, 3))
        self.stages = nn.ModuleList(
            DownStage(
                widths[i], widths[i + 1], num_blocks, time, down=i < last, temporal=i < last and temporal_downsample[i]
            )
            for i in range(len(multipliers))
        )
        self.middle = Middle(widths[-1], time)
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels, (time, 3, 3))
        self.gradient_checkpointing = False

    def forward(self, x: Clip, cache: Cache | None = None) -> Clip:
        """Return features at the stride of the tokenizer."""
        x = self.conv_in(x, cache)
        for stage in [*self.stages, self.middle]:
            x = _run(stage, x, cache, self.gradient_checkpointing and self.training)
        return self.conv_out(F.silu(self.norm_out(x)), cache)


class Decoder(nn.Module):
    """Turn latents into unshuffled pixels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        multipliers: Sequence[int],
        num_blocks: int,
        time: int,
        temporal_upsample: Sequence[bool],
    ) -> None:
        super().__init__()
        rising = list(reversed(multipliers))
        widths = [width * m for m in [rising[0], *rising]]
        last = len(multipliers) - 1
        self.conv_in = CausalConv3d(in_channels, widths[0], (time, 3, 3))
        self.middle = Middle(widths[0], time)
        self.stages = nn.ModuleList(
            UpStage(widths[i], widths[i + 1], num_blocks, time, up=i < last, temporal=i < last and temporal_upsample[i])
            for i in range(len(multipliers))
        )
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels, (time, 3, 3))
        self.gradient_checkpointing = False

    def forward(self, x: Clip, cache: Cache | None = None) -> Clip:
        """Return unshuffled pixels."""
        x = self.conv_in(x, cache)
        for stage in [self.middle, *self.stages]:
            x = _run(stage, x, cache, self.gradient_checkpointing and self.training)
        return self.conv_out(F.silu(self.norm_out(x)), cache)


def _run(stage: nn.Module, x: Tensor, cache: Cache | None, checkpointing: bool) -> Tensor:
    if checkpointing and cache is None:
        return checkpoint(stage, x, use_reentrant=False)  # type: ignore[no-any-return]
    return stage(x, cache)  # type: ignore[no-any-return]
