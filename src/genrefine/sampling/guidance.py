"""Classifier-free guidance (method section 3; paper section 3.3).

With conditional logits c, unconditional logits u and the weight w of a sample at signal t, the guided logits are

    u + w (c - u)

and w = 1 means c itself: then the unconditional pass does not run at all. Two laws of w are published:

    interval       w = g if low < t < high else 1      both strict; low = 0 includes t = 0
    power-cosine   w = 1 + (g - 1) (1 - cos(pi t^p)) / 2       grows from 1 to g

`apply_guidance` joins refiner, condition and law into one callable (codes, signal) -> logits. Rows that are guided
travel as one call: all samples conditionally, then the guided ones unconditionally. Samples may stand at different
signals (their step budgets differ), so the law is applied to each by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, pi
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrefine.conditioning.condition import Condition
from genrefine.errors import GenrefineError

Refiner = Callable[[Tensor, Tensor, Any], Tensor]
"""A network: (codes, signal, condition) -> logits, classes last."""


@runtime_checkable
class GuidanceLaw(Protocol):
    """A weight of the conditional logits for every signal."""

    def weight(self, signal: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return w of each sample; exactly 1 where it is not guided."""
        ...


@dataclass(frozen=True)
class Guidance:
    """Guide with a constant scale inside an interval of the signal.

    Args:
        scale: g; 1 is off.
        interval: low and high, 0 <= low < high <= 1; guided where low < t < high, and at t = 0 if low is 0.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        _require(self.scale, self.interval)

    def weight(self, signal: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return g inside the interval, 1 outside."""
        return torch.where(_inside(signal, self.interval), self.scale, 1.0).to(signal.dtype)


@dataclass(frozen=True)
class PowerCosineGuidance:
    """Guide more and more as the signal grows.

    The published code writes the same law as 1 + cfg (1 - cos(pi t^p)) / 2, so its `cfg` is `scale - 1`.

    Args:
        scale: g, reached at signal 1; 1 is off.
        power: p > 0; large values keep guidance for the end.
        interval: as in `Guidance`.
    """

    scale: float
    power: float
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        _require(self.scale, self.interval)
        if not 0 < self.power < float("inf"):
            raise GenrefineError(f"the power of power-cosine guidance must be a positive number; got {self.power}")

    def weight(self, signal: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return 1 + (g - 1) (1 - cos(pi t^p)) / 2 inside the interval, 1 outside."""
        # In float64, as torch's float32 cosine may round differently in a batch of another size.
        grown = 1 + (self.scale - 1) * (1 - torch.cos(pi * signal.double() ** self.power)) / 2
        return torch.where(_inside(signal, self.interval), grown.to(signal.dtype), 1.0)


@dataclass(frozen=True)
class GuidedLogits:
    """What the refiner says about every sample.

    Args:
        guided: logits to sample from.
        conditional: logits before guidance, which the entropy is read from.
        num_evaluations: network evaluations each sample cost, 1 or 2.
    """

    guided: Float[Tensor, "batch channels t h w classes"]
    conditional: Float[Tensor, "batch channels t h w classes"]
    num_evaluations: Int[Tensor, "batch"]


@dataclass(frozen=True)
class GuidedRefiner:
    """A refiner bound to a condition and a guidance law; see `apply_guidance`."""

    refiner: Refiner
    condition: Condition
    guidance: GuidanceLaw

    def __len__(self) -> int:
        return len(self.condition)

    def __call__(self, codes: Int[Tensor, "batch channels t h w"], signal: Float[Tensor, "batch"]) -> GuidedLogits:
        """Run the network once for all samples and return guided and conditional logits in float32.

        Args:
            codes: noisy codes.
            signal: t of each sample.
        """
        weight = self.guidance.weight(signal.cpu())
        is_guided = weight != 1
        rows = is_guided.nonzero().flatten()
        signal, rows_there = signal.to(codes.device), rows.to(codes.device)
        if len(rows) == 0:
            conditional = self.refiner(codes, signal, self.condition).float()
            guided = conditional
        else:
            logits = self.refiner(
                torch.cat([codes, codes[rows_there]]),
                torch.cat([signal, signal[rows_there]]),
                self.condition.joined(self.condition.null().select(rows)),
            ).float()
            conditional, unconditional = logits.split([len(codes), len(rows)])
            blend = _extrapolate(conditional[rows_there], unconditional, weight[rows].to(codes.device))
            guided = blend if len(rows) == len(codes) else conditional.index_copy(0, rows_there, blend)
        return GuidedLogits(guided, conditional, 1 + is_guided.long())

    def select(self, indices: Int[Tensor, "selected"]) -> "GuidedRefiner":
        """Return the same network bound to the condition of these samples only."""
        return GuidedRefiner(self.refiner, self.condition.select(indices), self.guidance)


def apply_guidance(refiner: Refiner, condition: Condition, guidance: GuidanceLaw) -> GuidedRefiner:
    """Join a refiner, a condition and a guidance law into one callable (codes, signal) -> `GuidedLogits`."""
    return GuidedRefiner(refiner, condition, guidance)


def _extrapolate(conditional: Tensor, unconditional: Tensor, weight: Tensor) -> Tensor:
    guided = unconditional + weight[:, None, None, None, None, None] * (conditional - unconditional)
    # A class that either branch rules out has no finite difference: it keeps what the condition says.
    ruled_out = torch.isneginf(conditional) | torch.isneginf(unconditional)
    return torch.where(ruled_out, conditional, guided)


def _inside(signal: Tensor, interval: tuple[float, float]) -> Tensor:
    # Python numbers compare in float32 here, as in the published code: t = 0.44 is outside (0.44, 1).
    low, high = interval
    below = signal < high
    return below if low == 0 else below & (signal > low)


def _require(scale: float, interval: tuple[float, float]) -> None:
    if not isfinite(scale):
        raise GenrefineError(f"guidance_scale must be a finite number, 1 for no guidance; got {scale}")
    if not 0 <= interval[0] < interval[1] <= 1:
        raise GenrefineError(
            f"guidance_interval must be two signals with 0 <= low < high <= 1; got {interval}; (0, 1) is all steps"
        )
