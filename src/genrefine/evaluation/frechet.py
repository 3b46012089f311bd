"""Distances between two sets of pictures, through their features.

Frechet distance between the Gaussians with the sets' means and covariances (arXiv 1706.08500):

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

With S = C^T C / (n - 1) for centered features C, the last trace is the sum of the singular values of C_a C_b^T over
sqrt((n_a - 1)(n_b - 1)). That form is exact in float64 for fewer pictures than features, where torchmetrics'
eigenvalues of the product S_a S_b lose digits. The distance is biased upwards: with few pictures two halves of one set
are far apart, so it is only comparable between sets of equal sizes.

Kernel distance, KID (arXiv 1801.01401): the unbiased squared maximum mean discrepancy with the kernel
(x . y / d + 1)^3, averaged over random subsets of equal size. It is comparable between sizes and can be below zero.
torchmetrics computes the same but draws subsets from the global random state.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genrefine.errors import GenrefineError


@dataclass(frozen=True)
class KernelDistance:
    """Kernel distance of two sets of pictures.

    Args:
        mean: mean over subsets.
        std: standard deviation over subsets; not the error of the mean, as subsets share pictures.
        num_subsets: subsets drawn.
        subset_size: pictures of either set in a subset.
    """

    mean: float
    std: float
    num_subsets: int
    subset_size: int


def frechet_distance(a: Float[Tensor, "pictures_a features_a"], b: Float[Tensor, "pictures_b features_b"]) -> float:
    """Return the Frechet distance of two sets of features, computed in float64.

    Raises:
        GenrefineError: a set has fewer than two pictures.
    """
    _require(a, b, at_least=2)
    root_a, root_b = covariance_root(a), covariance_root(b)
    shift = a.double().mean(0) - b.double().mean(0)
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return float(shift.square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * overlap)


def kernel_distance(
    a: Float[Tensor, "pictures_a features_a"],
    b: Float[Tensor, "pictures_b features_b"],
    generator: torch.Generator,
    subset_size: int | None = None,
    num_subsets: int = 100,
) -> KernelDistance:
    """Return the kernel distance of two sets of features, computed in float64.

    Args:
        a, b: features of the two sets.
        generator: draws the subsets.
        subset_size: pictures of either set in a subset. By default 1000, but at most half of the smaller set: larger
            subsets hardly differ, and their spread says nothing.
        num_subsets: subsets to average.

    Raises:
        GenrefineError: a set has fewer than four pictures (two with a given subset size), or a number is out of range.
    """
    _require(a, b, at_least=4 if subset_size is None else 2)
    smaller = min(len(a), len(b))
    size = min(1000, smaller // 2) if subset_size is None else subset_size
    if not 2 <= size <= smaller or num_subsets < 1:
        raise GenrefineError(
            f"kernel distance needs a subset_size in 2..{smaller} and num_subsets >= 1; got {size} and {num_subsets}"
        )
    a, b = a.double(), b.double()
    distances = torch.stack(
        [
            _mmd(
                a[torch.randperm(len(a), generator=generator)[:size]],
                b[torch.randperm(len(b), generator=generator)[:size]],
            )
            for _ in range(num_subsets)
        ]
    )
    return KernelDistance(float(distances.mean()), float(distances.std(correction=0)), num_subsets, size)


def _mmd(a: Tensor, b: Tensor) -> Tensor:
    """Return the unbiased squared maximum mean discrepancy with the cubic kernel."""
    own = cubic_kernel(a, a), cubic_kernel(b, b)
    within_a, within_b = ((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in own)
    distance: Tensor = within_a + within_b - 2 * cubic_kernel(a, b).mean()
    return distance


def cubic_kernel(
    a: Float[Tensor, "pictures_a features"], b: Float[Tensor, "pictures_b features"]
) -> Float[Tensor, "pictures_a pictures_b"]:
    """Return (x . y / d + 1)^3 for every x of one set and y of the other."""
    kernel: Tensor = (a @ b.T / a.shape[1] + 1).pow(3)
    return kernel


def covariance_root(features: Float[Tensor, "pictures features"]) -> Float[Tensor, "rank features"]:
    """Return R with R^T R = the covariance and no more rows than pictures or features."""
    centered = features.double()
    centered = (centered - centered.mean(0)) / math.sqrt(len(features) - 1)
    if len(features) <= features.shape[1]:
        return centered
    triangle: Tensor = torch.linalg.qr(centered, mode="r").R
    return triangle


def _require(a: Tensor, b: Tensor, at_least: int) -> None:
    if min(len(a), len(b)) < at_least:
        raise GenrefineError(f"a set needs at least {at_least} pictures; got {len(a)} and {len(b)}")
    if a.shape[1] != b.shape[1]:
        raise GenrefineError(f"both sets need features of one extractor; got {a.shape[1]} and {b.shape[1]} features")
