"""What is known of samples before they are refined: the codes of a picture that is edited (method section 3).

    fixed codes stay what they are, in every state and in the result
    the others begin as the forward process leaves them at signal t_0: own code with probability t_0, else noise

and the signals of the run are t_0 + (1 - t_0) t. With nothing fixed and t_0 = 0 this is generation, bit for bit; with
everything fixed it is the picture's own codes. The network is told the expected share of codes that are right,
f + (1 - f) t with the share f of fixed ones: a picture of which half is known is not a picture at signal 0.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.sampling.kernels import State
from genrefine.sampling.random_source import RandomSource
from genrefine.sampling.schedules import Schedule


@dataclass(frozen=True)
class KnownCodes:
    """Codes of pictures that are edited.

    Args:
        codes: clean codes of each sample.
        fixed: True where they stay.
        start: signal t_0 that the others begin at, in [0, 1).
        is_counted: the signals of the run count fixed codes already, as those of the released text programs do.
    """

    codes: Int[Tensor, "batch channels t h w"]
    fixed: Bool[Tensor, "batch channels t h w"]
    start: float = 0.0
    is_counted: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise GenrefineError(f"the signal that refinement starts at must lie in [0, 1); got {self.start}")

    def begin(self, noise: Int[Tensor, "batch channels t h w"], source: RandomSource) -> State:
        """Return the first state; the streams advance only if it holds codes by chance."""
        held = self.fixed
        if self.start > 0:
            held = held | (source.uniform(tuple(noise.shape[1:])) < self.start)
        return State(torch.where(held, self.codes, noise), held)

    def told(self, signal: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return the expected share of right codes at a signal of those that are not fixed."""
        if self.is_counted:
            return signal
        share = self._share.to(signal.device)
        return share + (1 - share) * signal

    def in_prediction(self, prediction: Int[Tensor, "batch channels t h w"]) -> Int[Tensor, "batch channels t h w"]:
        """Return a prediction with the fixed codes in their places."""
        return torch.where(self.fixed, self.codes, prediction)

    def in_state(self, state: State) -> State:
        """Return a state with the fixed codes in their places."""
        return State(torch.where(self.fixed, self.codes, state.codes), state.held | self.fixed)

    @cached_property
    def _share(self) -> Float[Tensor, "batch"]:
        """Share of fixed codes, on the CPU as the signals are: looked at once, as an accelerator is waited for."""
        return self.fixed.flatten(1).float().mean(1).cpu()

    def select(self, rows: Int[Tensor, "selected"]) -> "KnownCodes":
        """Return what is known of some of the samples."""
        return replace(self, codes=self.codes[rows], fixed=self.fixed[rows])


@dataclass(frozen=True)
class ScheduleFrom:
    """Begin a schedule at a signal: t_0 + (1 - t_0) t.

    Args:
        inner: gives t.
        start: t_0, in [0, 1).
    """

    inner: Schedule
    start: float

    def __call__(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the signal at a progress in [0, 1]."""
        return self.start + (1 - self.start) * self.inner(progress)
