"""Fidelity and diversity apart: precision and recall, density and coverage, through features.

Around each point of a set lies the ball that reaches to its k-th nearest neighbor in the set.

    precision   share of samples in the ball of a real picture               (arXiv 1904.06991, k = 3)
    recall      share of real pictures in the ball of a sample               (the same)
    density     real balls that hold a sample, on average, over k            (arXiv 2002.09797, k = 5); can exceed 1
    coverage    share of real pictures whose ball holds a sample             (the same)

A sharper temperature raises the first and third and lowers the others; a distance alone mixes them up. Recall and
coverage grow with the number of samples: compare rows with equal numbers. torchmetrics has none of the four.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genrefine.errors import GenrefineError

PRECISION_NEIGHBORS, DENSITY_NEIGHBORS = 3, 5


@dataclass(frozen=True)
class Manifold:
    """How samples lie among real pictures.

    Args:
        num_samples, num_pictures: sizes of the sets.
        precision, recall: with three neighbors, in [0, 1].
        density, coverage: with five neighbors; coverage in [0, 1].
    """

    num_samples: int
    num_pictures: int
    precision: float
    recall: float
    density: float
    coverage: float


def manifold(samples: Float[Tensor, "samples features_a"], pictures: Float[Tensor, "pictures features_b"]) -> Manifold:
    """Compare two sets by Euclidean distances of their features, computed in float64.

    Raises:
        GenrefineError: a set has no more than five points, or the features are of two extractors.
    """
    if min(len(samples), len(pictures)) <= DENSITY_NEIGHBORS or samples.shape[1] != pictures.shape[1]:
        raise GenrefineError(
            f"precision and recall need more than {DENSITY_NEIGHBORS} samples and pictures described by one extractor; "
            f"got {tuple(samples.shape)} and {tuple(pictures.shape)}"
        )
    samples, pictures = samples.double(), pictures.double()
    across = _distances(samples, pictures)
    of_samples, of_pictures = _radii(samples), _radii(pictures)
    near = across <= of_pictures[DENSITY_NEIGHBORS]
    return Manifold(
        num_samples=len(samples),
        num_pictures=len(pictures),
        precision=_share((across <= of_pictures[PRECISION_NEIGHBORS]).any(1)),
        recall=_share((across <= of_samples[PRECISION_NEIGHBORS][:, None]).any(0)),
        density=float(near.double().sum(1).mean()) / DENSITY_NEIGHBORS,
        coverage=_share(near.any(0)),
    )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # Not by matrix products, whose rounding would put a picture outside a ball of radius zero around its own copy.
    distances: Tensor = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def _radii(points: Tensor) -> dict[int, Tensor]:
    """Return the distance of every point to its k-th nearest other, for both k."""
    nearest = (
        _distances(points, points).topk(DENSITY_NEIGHBORS + 1, dim=1, largest=False).values
    )  # the first is the point itself
    return {k: nearest[:, k] for k in (PRECISION_NEIGHBORS, DENSITY_NEIGHBORS)}


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
