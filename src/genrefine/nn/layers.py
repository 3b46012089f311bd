"""Normalization, modulation and feed-forward layers of a transformer block.

    RMSNorm(x)        = x / sqrt(mean(x^2) + eps) * weight
    modulate(x, s, g) = x * (1 + g) + s                 adaLN: shift s and scale g come from the condition
    SwiGLU(x)         = W_3 (silu(W_1 x) * W_2 x)

Norm statistics are float32 in any precision; results go back to the dtype of the input. Written as plain expressions,
which a compiler fuses into one pass (Zhang & Sennrich 2019; Shazeer 2020; Peebles & Xie 2023).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def inverse_rms(x: Float[Tensor, "*batch dim"], eps: float) -> Float[Tensor, "*batch 1"]:
    """Return 1 / sqrt(mean(x^2) + eps) over the last axis in float32."""
    return torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)


def rms_normalize(
    x: Float[Tensor, "*batch dim"], weight: Float[Tensor, "dim"], eps: float
) -> Float[Tensor, "*batch dim"]:
    """Return x / rms(x) * weight in float32."""
    wide = x.float()
    return wide * inverse_rms(wide, eps) * weight.float()


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis, times a learned weight."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return rms_normalize(x, self.weight, self.eps).to(x.dtype)


class ModulatedRMSNorm(RMSNorm):
    """Apply RMSNorm, then a shift and a scale that the condition gives for each sample."""

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch tokens dim"], shift: Float[Tensor, "batch dim"], scale: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        # weight * (1 + scale) is one small vector per sample, so the tokens are passed over once.
        gain = (self.weight.float() * (1 + scale.float()))[:, None]
        wide = x.float()
        return torch.addcmul(shift.float()[:, None], wide * inverse_rms(wide, self.eps), gain).to(x.dtype)


def batch_invariant(
    layer: Callable[[Tensor], Tensor], rows: Tensor, training: bool
) -> Float[Tensor, "batch out_features"]:
    """Apply a layer to one row per sample, giving a sample the same bits in a batch of any size.

    A matrix product of few rows adds up in another order than one of many, and where the order changes depends on the
    processor. Rows therefore travel by eights, filled up with zeros: every product has the same size. Layers over
    tokens have rows enough. Training and compiled graphs, which promise no bits, take one product.

    Args:
        layer: maps rows, an adapter beside its weights included.
        rows: vectors or numbers of classes.
        training: of the module that calls.
    """
    filled = torch.cat([rows, rows.new_zeros(-len(rows) % 8, *rows.shape[1:])])
    if (training and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return layer(filled)[: len(rows)]
    return torch.cat([layer(part) for part in filled.split(8)])[: len(rows)]


class Float32Linear(nn.Linear):
    """Map rows in float32, whatever dtype the weights have and autocast says."""

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(x.float(), self.weight.float(), bias)


class SwiGLU(nn.Module):
    """Map tokens through a gated hidden layer.

    Args:
        dim: channels of a token.
        hidden: hidden channels.
        is_fused: keep W_1 and W_2 as one matrix, gate first, with biases, as the class networks do; else as two
            without, as the text networks do.
    """

    def __init__(self, dim: int, hidden: int, is_fused: bool = True) -> None:
        super().__init__()
        if is_fused:
            self.gate_and_value = nn.Linear(dim, 2 * hidden)
        else:
            self.gate = nn.Linear(dim, hidden, bias=False)
            self.value = nn.Linear(dim, hidden, bias=False)
        self.output = nn.Linear(hidden, dim, bias=is_fused)
        self.is_fused = is_fused

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        gate, value = self.gate_and_value(x).chunk(2, dim=-1) if self.is_fused else (self.gate(x), self.value(x))
        return self.output(F.silu(gate) * value)
