"""Step budgets: how many refinements a sample gets (method section 4; paper section 3.4, entropy-guided sampling).

A fixed budget of T steps has progress s_i = i / T after i steps. The entropy-guided budget first runs w warm-up steps
of a nominal T-step run, T = max_steps. The network call of step w then gives

    H = mean over elements of the entropy of the conditional softmax / log(classes),       in [0, 1]
    n = round(clip(k H + b, T_min - w, T_max - w)),      total = w + n

and the remaining n steps share what is left of the progress evenly:

    s_i = i / T  for i <= w,        s_i = w/T + (1 - w/T) (i - w) / n  afterwards

so a picture the network is sure about gets few steps. k and b belong to one model. (The released text programs spread
the progress otherwise, see `published`.)
`fit_entropy_steps` finds them from the H of many warm-up runs: by mapping the observed range to [T_min, T_max], or so
that the mean of the totals is a given number.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite, log
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from genrefine.errors import GenrefineError

_SMALLEST_RANGE = 1e-6  # entropies closer than this differ by float32 rounding only
_EASIEST_SHARE = 0.8  # default T_min of a fit with a mean: published 20 steps at a mean of 24


def normalized_entropy(logits: Float[Tensor, "batch *elements classes"]) -> Float[Tensor, "batch"]:
    """Return the mean entropy of each sample's softmax over log(classes), in [0, 1].

    A class of probability zero (a logit of -inf, or one that underflows) adds nothing.
    """
    if logits.shape[-1] < 2:
        raise GenrefineError(f"entropy needs at least 2 classes; got logits of shape {tuple(logits.shape)}")
    entropies = torch.special.entr(torch.softmax(logits.float(), dim=-1))
    # One sample at a time: the order of a sum, hence its last bits, must not depend on the batch.
    means = torch.stack([sample.sum() / (sample.numel() / logits.shape[-1]) for sample in entropies])
    return means / log(logits.shape[-1])


def checked_entropy(entropy: Float[Tensor, "batch"], guided: Tensor) -> Float[Tensor, "batch"]:
    """Return the entropy, refusing NaN in it and in the guided logits.

    Raises:
        GenrefineError: the network returned NaN.
    """
    if entropy.isnan().any() or guided.isnan().any():
        raise GenrefineError("the network must return numbers; got NaN logits; check its weights, or run it in float32")
    return entropy


@dataclass(frozen=True)
class Rest:
    """What the entropy of a sample decides.

    Args:
        progress: after each of the steps that remain, the deciding one included; their number is the decision.
        temperature_factor: what the temperature of these steps is multiplied by.
    """

    progress: Float64[Tensor, "remaining"]
    temperature_factor: float = 1.0


@runtime_checkable
class StepBudget(Protocol):
    """Decide how many steps a sample takes and how its progress is spread over them."""

    @property
    def max_steps(self) -> int:
        """Most steps a sample can take."""
        ...

    def before(self) -> Float64[Tensor, "warmup"]:
        """Return the progress after each step whose successor does not wait for a decision: s_1 .. s_w."""
        ...

    def after(self, entropy: float) -> Rest:
        """Return what remains from step w on, given its entropy: s_{w+1} .. s_total."""
        ...


@dataclass(frozen=True)
class FixedSteps:
    """Give every sample the same number of steps.

    Args:
        num_steps: T, at least 1.
    """

    num_steps: int = 50

    def __post_init__(self) -> None:
        require_count("num_inference_steps", self.num_steps, at_least=1)  # the word that callers use

    @property
    def max_steps(self) -> int:
        """Steps of every sample."""
        return self.num_steps

    def before(self) -> Float64[Tensor, "0"]:
        """Return nothing: all is known from the start."""
        return _numbers([])

    def after(self, entropy: float = 0.0) -> Rest:
        """Return i / T, whatever the entropy."""
        return Rest(_numbers([i / self.num_steps for i in range(1, self.num_steps + 1)]))


@dataclass(frozen=True)
class EntropySteps:
    """Give uncertain samples more steps.

    Args:
        warmup: w, steps before the decision, at least 0.
        slope: k, steps per unit of entropy.
        offset: b, steps.
        min_steps: T_min, more than `warmup`.
        max_steps: T_max, at least T_min; also the nominal T of the warm-up.
        min_temperature_factor: 1 leaves the temperature alone. Below 1, samples with n < 30 steps left are sampled
            cooler, at `clip((n - 10) / 40 + 0.5, min_temperature_factor, 1)` times the temperature; the published
            class model uses 0.5.
    """

    warmup: int
    slope: float
    offset: float
    min_steps: int
    max_steps: int
    min_temperature_factor: float = 1.0

    def __post_init__(self) -> None:
        _require_range(self.warmup, self.min_steps, self.max_steps)
        if not (isfinite(self.slope) and isfinite(self.offset)):
            raise GenrefineError(f"slope and offset must be finite numbers; got {self.slope} and {self.offset}")
        if not 0 < self.min_temperature_factor <= 1:
            raise GenrefineError(
                f"min_temperature_factor must lie in (0, 1], 1 for no effect; got {self.min_temperature_factor}"
            )

    def total(self, entropy: float) -> int:
        """Return w + round(clip(k H + b, T_min - w, T_max - w)), halves to even."""
        if not isfinite(entropy):
            raise GenrefineError(f"the entropy of a step budget must be a finite number; got {entropy}")
        remaining = self.slope * entropy + self.offset
        return self.warmup + round(min(max(remaining, self.min_steps - self.warmup), self.max_steps - self.warmup))

    def temperature_factor(self, remaining: int) -> float:
        """Return what the temperature is multiplied by when n steps are left: see `min_temperature_factor`."""
        return min(max((remaining - 10) / 40 + 0.5, self.min_temperature_factor), 1.0)

    def before(self) -> Float64[Tensor, "warmup"]:
        """Return i / T."""
        return _numbers([i / self.max_steps for i in range(1, self.warmup + 1)])

    def after(self, entropy: float) -> Rest:
        """Return an even share of what is left of the progress for each of the n steps that remain."""
        n, done = self.total(entropy) - self.warmup, self.warmup / self.max_steps
        share = [done + (1 - done) * i / n for i in range(1, n)]
        return Rest(_numbers([*share, 1.0]), self.temperature_factor(n))


@dataclass(frozen=True)
class ShortenedSteps:
    """A share of another budget: as many steps fewer before and after its decision, along the same progress.

    Args:
        inner: decides.
        share: of its steps, in (0, 1].
    """

    inner: StepBudget
    share: float

    @property
    def max_steps(self) -> int:
        """Most steps a sample can take."""
        warmup = len(self.inner.before())
        return ceil(warmup * self.share) + ceil((self.inner.max_steps - warmup) * self.share)

    def before(self) -> Float64[Tensor, "warmup"]:
        """Return a share of the warm-up."""
        return self._fewer(self.inner.before(), 0.0)

    def after(self, entropy: float) -> Rest:
        """Return a share of what the entropy decides."""
        rest, before = self.inner.after(entropy), self.inner.before()
        done = float(before[-1]) if len(before) else 0.0
        return Rest(self._fewer(rest.progress, done), rest.temperature_factor)

    def _fewer(self, progress: Float64[Tensor, "_"], start: float) -> Float64[Tensor, "_"]:
        count, way = ceil(len(progress) * self.share), [start, *progress.tolist()]
        fewer = []
        for step in range(1, count + 1):
            whole, part = divmod(step * len(progress), count)
            beyond = way[whole + 1] if part else way[whole]
            fewer.append(way[whole] + (beyond - way[whole]) * part / count)
        return _numbers(fewer)


def shortened(steps: StepBudget, share: float) -> StepBudget:
    """Return a budget of fewer steps: what is left to do where refinement begins at signal 1 - share."""
    return FixedSteps(ceil(steps.num_steps * share)) if type(steps) is FixedSteps else ShortenedSteps(steps, share)


def fit_entropy_steps(
    entropies: Sequence[float],
    *,
    warmup: int = 5,
    min_steps: int | None = None,
    max_steps: int = 50,
    mean_steps: float | None = None,
    min_temperature_factor: float = 1.0,
) -> EntropySteps:
    """Find the entropy budget of a model from the entropies of its warm-up runs.

    Without `mean_steps` the observed range [H_min, H_max] maps to [T_min, T_max]: k = (T_max - T_min) / (H_max - H_min)
    and b = T_min - w - k H_min. With it, k stays and b moves until the mean total over the observations is as near as
    it gets, at most half a step away.

    Args:
        entropies: H at step `warmup` of runs with a nominal `max_steps` steps, each in [0, 1].
        warmup: w of those runs.
        min_steps: T_min; by default 20, or 0.8 of `mean_steps`, in either case more than `warmup` and no more than
            `max_steps`.
        max_steps: T_max, the nominal T of those runs.
        mean_steps: wanted mean of the totals, from T_min to T_max.
        min_temperature_factor: see `EntropySteps`.

    Raises:
        GenrefineError: if there are no entropies, if one is not in [0, 1], if the numbers of steps do not fit
            together, or if all entropies are equal and no mean is given.
    """
    if len(entropies) == 0:
        raise GenrefineError(
            "a step budget is fitted to observed entropies; got none; run the warm-up on some conditions"
        )
    wrong = [value for value in entropies if not -1e-6 <= value <= 1 + 1e-6]  # a NaN fails both comparisons
    if wrong:
        raise GenrefineError(f"normalized entropies lie in [0, 1]; got {wrong[0]}")
    if min_steps is None:
        easiest = 20 if mean_steps is None else int(_EASIEST_SHARE * mean_steps)
        min_steps = min(max(easiest, warmup + 1), max_steps)
    _require_range(warmup, min_steps, max_steps)
    low, high = min(entropies), max(entropies)
    distinct = high - low > _SMALLEST_RANGE
    if mean_steps is None and not distinct:
        raise GenrefineError(
            f"the observed entropies are all {low:.6f}, which is no range to map; give mean_steps, or observe more"
        )
    slope = (max_steps - min_steps) / (high - low) if distinct else 0.0
    if mean_steps is None:
        offset = min_steps - warmup - slope * low
        return EntropySteps(warmup, slope, offset, min_steps, max_steps, min_temperature_factor)
    if not min_steps <= mean_steps <= max_steps:
        raise GenrefineError(
            f"mean_steps must lie between min_steps {min_steps} and max_steps {max_steps}; got {mean_steps}"
        )

    def budget(offset: float) -> EntropySteps:
        return EntropySteps(warmup, slope, offset, min_steps, max_steps, min_temperature_factor)

    def mean_total(candidate: EntropySteps) -> float:
        return sum(map(candidate.total, entropies)) / len(entropies)

    # The mean total never falls as the offset grows; at these ends every sample takes T_min or T_max steps.
    below, above = min_steps - warmup - slope * high - 1, max_steps - warmup - slope * low + 1
    for _ in range(100):
        middle = (below + above) / 2
        if mean_total(budget(middle)) < mean_steps:
            below = middle
        else:
            above = middle
    return min(budget(below), budget(above), key=lambda candidate: abs(mean_total(candidate) - mean_steps))


def _require_range(warmup: int, min_steps: int, max_steps: int) -> None:
    require_count("warmup", warmup, at_least=0)
    require_count("min_steps", min_steps, at_least=1)
    require_count("max_steps", max_steps, at_least=1)
    if not warmup < min_steps <= max_steps:
        raise GenrefineError(
            f"a step budget needs warmup < min_steps <= max_steps; got {warmup}, {min_steps} and {max_steps}"
        )


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def require_count(name: str, value: int, at_least: int) -> None:
    """Refuse what is no whole number of at least so many."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < at_least:
        raise GenrefineError(f"{name} must be a whole number of at least {at_least}; got {value!r}")
