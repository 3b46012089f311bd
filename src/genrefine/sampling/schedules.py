"""Inference schedules: progress of the sampler -> signal (method section 3).

Progress s in [0, 1] is the share of the steps that are done; the signal t in [0, 1] is the share of clean codes that
the sampler then aims at. Class-to-image uses the linear schedule, text models the cosine:

    linear    t = s
    cosine    t = 1 - cos(pi s / 2)
    shifted   t = inner(shift(s, a)),     shift as in `corruption.shift_signal`

A schedule starts at 0 and never falls. It may end below 1, as those of the released text models do (`published`): the
result of sampling is the last prediction, not the last state.
"""

from dataclasses import dataclass
from math import pi
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genrefine.corruption import require_shift, shift_signal


@runtime_checkable
class Schedule(Protocol):
    """A rising map from progress to signal."""

    def __call__(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the signal at a progress in [0, 1]."""
        ...


@dataclass(frozen=True)
class LinearSchedule:
    """Let the signal grow evenly: t = s."""

    def __call__(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the signal at a progress in [0, 1]."""
        return progress


@dataclass(frozen=True)
class CosineSchedule:
    """Let the signal grow slowly at first: t = 1 - cos(pi s / 2)."""

    def __call__(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the signal at a progress in [0, 1]."""
        return 1 - torch.cos(pi / 2 * progress)


@dataclass(frozen=True)
class ShiftedSchedule:
    """Spend more steps at low signal: shift the progress, then apply another schedule.

    Args:
        inner: the schedule to shift.
        shift: a > 0; 1 changes nothing, more gives more noise at every step.
    """

    inner: Schedule
    shift: float

    def __post_init__(self) -> None:
        require_shift(self.shift)

    def __call__(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the signal at a progress in [0, 1]."""
        return self.inner(shift_signal(progress, self.shift))
