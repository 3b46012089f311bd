"""Two sets of samples of the same seeds, beside the same pictures: which is nearer, and how sure is that?

Samples of one seed and one class share their noise and most of their fate, so the difference of two settings is known
far better from pairs than from two spreads. The kernel distance (see `frechet`) of samples a_1 .. a_n to pictures
r_1 .. r_m is a sum over pairs of pictures,

    KID(a) = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(r_i, r_j) - 2 mean_{ij} k(a_i, r_j)

and the difference of two settings, KID(b) - KID(a), is resampled by the bootstrap: seeds are drawn with replacement,
the same for both settings, and pictures likewise, so that the interval answers for the choice of either. Pairs of one
seed with itself are left out, also where it is drawn twice: they would count a picture as its own neighbor.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.evaluation.frechet import cubic_kernel

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A number and where it lies.

    Args:
        value: from all samples.
        low, high: 95 % of the bootstrap's values lie between them.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: Float[Tensor, "times"]) -> "Interval":
        """Return the interval between percentiles of resampled values."""
        tail = (1 - LEVEL) / 2
        low, high = resampled.double().quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        return cls(value, low, high)

    @property
    def is_apart(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class PairedDistance:
    """Kernel distances of two settings and their difference.

    Args:
        num_pairs: seeds that both have made.
        num_pictures: real ones.
        first, second: kernel distance of either, of all samples and pictures.
        difference: second - first; below zero if the second is nearer.
        wins: share of resamplings in which the second is nearer.
        num_resamplings: of the bootstrap.
    """

    num_pairs: int
    num_pictures: int
    first: Interval
    second: Interval
    difference: Interval
    wins: float
    num_resamplings: int


def paired_kernel_distance(
    first: Float[Tensor, "pairs_a features_a"],
    second: Float[Tensor, "pairs_b features_b"],
    pictures: Float[Tensor, "pictures features_c"],
    generator: torch.Generator,
    num_resamplings: int = 1000,
) -> PairedDistance:
    """Compare two settings by their kernel distances to the same pictures, computed in float64.

    Args:
        first, second: features of the samples; row i of both is of the same seed and class or prompt.
        pictures: features of real pictures.
        generator: draws the resamplings.
        num_resamplings: of the bootstrap.

    Raises:
        GenrefineError: sets that are no pairs, of other features, or too small.
    """
    if first.shape != second.shape or first.shape[1] != pictures.shape[1]:
        raise GenrefineError(
            "pairs need as many samples of either setting, described by the extractor of the pictures; got "
            f"{tuple(first.shape)}, {tuple(second.shape)} and {tuple(pictures.shape)}"
        )
    if min(len(first), len(pictures)) < 8 or num_resamplings < 2:
        raise GenrefineError(
            f"a paired distance needs eight pairs, eight pictures and two resamplings; got {len(first)}, "
            f"{len(pictures)} and {num_resamplings}"
        )
    settings = [_Kernels.of(one.double(), pictures.double()) for one in (first, second)]
    whole = [one.distance(torch.ones(1, len(first)), torch.ones(1, len(pictures))) for one in settings]
    found: list[list[Tensor]] = [[], []]
    for start in range(0, num_resamplings, 100):
        count = min(100, num_resamplings - start)
        seeds, real = (_drawn(count, len(one), generator) for one in (first, pictures))
        for values, setting in zip(found, settings, strict=True):
            values.append(setting.distance(seeds, real))
    one, other = (torch.cat(values) for values in found)
    a, b = (float(value) for value in whole)
    return PairedDistance(
        num_pairs=len(first),
        num_pictures=len(pictures),
        first=Interval.of(a, one),
        second=Interval.of(b, other),
        difference=Interval.of(b - a, other - one),
        wins=float((other < one).double().mean()),
        num_resamplings=num_resamplings,
    )


@dataclass(frozen=True, eq=False)
class _Kernels:
    """Kernels of one setting: within its samples, within the pictures, across; the first two without diagonals."""

    within: Tensor
    real: Tensor
    across: Tensor

    @classmethod
    def of(cls, samples: Tensor, pictures: Tensor) -> "_Kernels":
        within, real = cubic_kernel(samples, samples), cubic_kernel(pictures, pictures)
        return cls(within.fill_diagonal_(0), real.fill_diagonal_(0), cubic_kernel(samples, pictures))

    def distance(self, seeds: Tensor, real: Tensor) -> Tensor:
        """Return the kernel distance of every resampling, given how often it drew each sample and each picture."""
        seeds, real = seeds.double(), real.double()
        across = ((seeds @ self.across) * real).sum(1) / (seeds.sum(1) * real.sum(1))
        return _mean_of_pairs(self.within, seeds) + _mean_of_pairs(self.real, real) - 2 * across


def _mean_of_pairs(kernel: Tensor, weights: Tensor) -> Tensor:
    pairs: Tensor = weights.sum(1).square() - weights.square().sum(1)
    return ((weights @ kernel) * weights).sum(1) / pairs


def _drawn(times: int, count: int, generator: torch.Generator) -> Tensor:
    """Return how often each of `count` things is drawn in `count` draws with replacement, `times` times."""
    places = torch.randint(count, (times, count), generator=generator)
    return torch.zeros(times, count).scatter_add_(1, places, torch.ones(times, count))
