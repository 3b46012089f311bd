"""Transition kernels: from the state at signal t to the state at signal t' > t (method section 3).

The state X_t holds codes of which some were set by a prediction and the others are noise; the network predicts Y, and a
kernel draws X_t' from both with one uniform number U per element.

    refresh    X_t' = Y if U < t' else N          the published kernel: every element anew, the same noise N throughout
    exact      P(X_t' = v | X_t = x, Y = y)  ~  [a 1{v = x} + (1 - a)/K] [t' 1{v = y} + (1 - t')/K],      a = t/t'

The second is the reverse of the Markov chain whose corruption keeps an element from t' down to t with probability
t/t' and else replaces it by uniform noise over K classes; its marginals are those the network was trained on. Given
exact posteriors it samples the data's distribution as the number of steps grows, where the refresh kernel keeps a
bias; given a network that errs, refreshing everything forgives early mistakes. At t' = 1 both return Y.

`held` marks the elements that hold a prediction. Under the refresh kernel these are the elements with U < t'. Under
the exact kernel an element holds a prediction if its value agrees with the newest one, or if it held one and kept its
value.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError


@dataclass(frozen=True)
class State:
    """Codes between noise and prediction.

    Args:
        codes: X_t.
        held: True where an element holds a prediction, False where it is noise.
    """

    codes: Int[Tensor, "batch channels t h w"]
    held: Bool[Tensor, "batch channels t h w"]


@dataclass(frozen=True)
class Transition:
    """All that a kernel may look at.

    Args:
        prediction: Y, a sampled guess of all clean codes.
        noise: N, the noise the sample started from.
        uniform: U, fresh for every step.
        signal: t of each sample, before the step.
        next_signal: t' of each sample, after the step.
        code_classes: K.
    """

    prediction: Int[Tensor, "batch channels t h w"]
    noise: Int[Tensor, "batch channels t h w"]
    uniform: Float[Tensor, "batch channels t h w"]
    signal: Float[Tensor, "batch"]
    next_signal: Float[Tensor, "batch"]
    code_classes: int


@runtime_checkable
class Kernel(Protocol):
    """Draw the next state."""

    def __call__(self, state: State, transition: Transition) -> State:
        """Return the state at the next signal."""
        ...


@dataclass(frozen=True)
class RefreshKernel:
    """Draw every element anew: prediction with probability t', else its own noise (published)."""

    def __call__(self, state: State, transition: Transition) -> State:
        """Return the state at the next signal."""
        held = transition.uniform < _spread(transition.next_signal)
        return State(torch.where(held, transition.prediction, transition.noise), held)


@dataclass(frozen=True)
class ExactKernel:
    """Reverse the corruption's Markov chain exactly, given the prediction."""

    def __call__(self, state: State, transition: Transition) -> State:
        """Return the state at the next signal."""
        x, y, code_classes = state.codes, transition.prediction, transition.code_classes
        signal, later = _spread(transition.signal), _spread(transition.next_signal)
        # A signal that stands still, as under a capped schedule, keeps everything.
        stays = torch.where(later > signal, signal / later.clamp_min(1e-30), 1.0)
        stay, move = stays + (1 - stays) / code_classes, (1 - stays) / code_classes
        agree, differ = later + (1 - later) / code_classes, (1 - later) / code_classes

        # Three outcomes and their weights: the value x stays, y takes over, or one of the other values comes up.
        same = x == y
        num_others = torch.where(same, code_classes - 1, code_classes - 2)
        weight_x = stay * torch.where(same, agree, differ)
        weight_y = torch.where(same, 0.0, move * agree)
        weight_others = move * differ * num_others
        point = transition.uniform * (weight_x + weight_y + weight_others)
        takes_x = point < weight_x
        takes_other = (point >= weight_x + weight_y) & (weight_others > 0)

        # What is left of the uniform number ranks the other values, skipping x and y.
        share = (point - weight_x - weight_y) / weight_others.clamp_min(1e-30)
        rank = torch.minimum((share.clamp(0, 1) * num_others).to(x.dtype), (num_others - 1).to(x.dtype))
        rank = rank + (rank >= torch.minimum(x, y)).to(x.dtype)
        rank = rank + (~same & (rank >= torch.maximum(x, y))).to(x.dtype)
        codes = torch.where(takes_other, rank, torch.where(takes_x, x, y))
        return State(codes, (codes == y) | (state.held & (codes == x)))


@dataclass(frozen=True)
class RefreshThenExactKernel:
    """Refresh while the network still errs, then follow the exact reverse.

    Args:
        switch: signal t from which on the exact kernel is used, in (0, 1).
    """

    switch: float

    def __post_init__(self) -> None:
        if not 0 < self.switch < 1:
            raise GenrefineError(f"the switch between kernels is a signal between 0 and 1; got {self.switch}")

    def __call__(self, state: State, transition: Transition) -> State:
        """Return the state at the next signal."""
        early, late = RefreshKernel()(state, transition), ExactKernel()(state, transition)
        is_late = _spread(transition.signal >= self.switch).to(state.codes.device)
        return State(torch.where(is_late, late.codes, early.codes), torch.where(is_late, late.held, early.held))


def _spread(per_sample: Tensor) -> Tensor:
    return per_sample[:, None, None, None, None]
