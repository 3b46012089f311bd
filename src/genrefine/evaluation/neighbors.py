"""How near samples are to the training pictures: the question of memorization.

Distances are cosine distances of features, 1 - cos, in [0, 2]. A sample that repeats a training picture is far nearer
to it than a new picture is to any. So the yardstick is held-out real pictures: their nearest training neighbors show
how near honest pictures of this kind come. (A motif that recurs in another color brings both nearer, so look at the
neighbors as well.)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError


@dataclass(frozen=True)
class Neighbors:
    """The nearest references of every query, nearest first.

    Args:
        indices: places of the neighbors among the references.
        distances: cosine distances of features, in [0, 2].
    """

    indices: Int[Tensor, "queries neighbors"]
    distances: Float[Tensor, "queries neighbors"]


@dataclass(frozen=True)
class Memorization:
    """Nearest training neighbors of samples, beside those of held-out pictures.

    Args:
        num_samples, num_held_out, num_training: sizes of the three sets.
        median_distance_of_samples: median cosine distance of a sample to its nearest training picture.
        median_distance_of_held_out: the same for held-out real pictures.
        near_distance: the distance below which only 1 % of the held-out pictures come.
        near_share: share of the samples below it; about 0.01 if samples are as new as held-out pictures.
    """

    num_samples: int
    num_held_out: int
    num_training: int
    median_distance_of_samples: float
    median_distance_of_held_out: float
    near_distance: float
    near_share: float


def nearest_neighbors(
    queries: Float[Tensor, "queries features"], references: Float[Tensor, "references features"], num_neighbors: int = 1
) -> Neighbors:
    """Find the nearest references of every query by cosine distance of features.

    Raises:
        GenrefineError: there are fewer references than neighbors asked for.
    """
    if not 1 <= num_neighbors <= len(references):
        raise GenrefineError(f"num_neighbors must lie in 1..{len(references)}, the references; got {num_neighbors}")
    unit_references = F.normalize(references.float(), dim=1)
    found = [
        (1 - F.normalize(part.float(), dim=1) @ unit_references.T).topk(num_neighbors, largest=False)
        for part in queries.split(512)
    ]
    return Neighbors(
        torch.cat([part.indices for part in found]), torch.cat([part.values for part in found]).clamp_min(0)
    )


def memorization(
    samples: Float[Tensor, "samples features"],
    held_out: Float[Tensor, "held_out features"],
    training: Float[Tensor, "training features"],
) -> Memorization:
    """Compare how near samples and held-out pictures come to the training pictures."""
    of_samples = nearest_neighbors(samples, training).distances[:, 0]
    of_held_out = nearest_neighbors(held_out, training).distances[:, 0]
    near = float(of_held_out.quantile(0.01))
    return Memorization(
        num_samples=len(samples),
        num_held_out=len(held_out),
        num_training=len(training),
        median_distance_of_samples=float(of_samples.median()),
        median_distance_of_held_out=float(of_held_out.median()),
        near_distance=near,
        near_share=float((of_samples < near).float().mean()),
    )
