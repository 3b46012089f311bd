"""Sets of samples beside sets of real pictures, and records of evaluations.

A distance alone says little on a small set: beside it stand the floors, which real pictures reach. The kernel distance
is unbiased and comes first; a Frechet distance is only comparable between rows with equal numbers of pictures, hence
the rows over halves.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.evaluation.features import Classifier, FeatureExtractor
from genrefine.evaluation.frechet import KernelDistance, frechet_distance, kernel_distance
from genrefine.evaluation.manifold import Manifold, manifold
from genrefine.evaluation.statistics import InceptionScore, Statistics, frechet_to, inception_score

FEWEST_FOR_INCEPTION = 100
"""Samples from which on an inception score of ten splits says anything."""


class Record:
    """What an evaluation found, as a dataclass that says how."""

    def to_json(self) -> str:
        """Return the record as JSON; an infinite number becomes null."""
        return json.dumps(_plain(asdict(self)), indent=2)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Comparison:
    """Distance between two sets of pictures.

    Args:
        first, second: what they are.
        num_first, num_second: how many.
        kernel: kernel distance (KID).
        frechet: Frechet distance; compare only rows with equal numbers.
    """

    first: str
    second: str
    num_first: int
    num_second: int
    kernel: KernelDistance
    frechet: float


@dataclass(frozen=True)
class ReferenceDistance:
    """Distance to statistics in a file.

    Args:
        file: what it is called.
        frechet: Frechet distance of the samples to it.
        num_samples: of them; published distances have 50,000, and fewer are further.
    """

    file: str
    frechet: float
    num_samples: int


@dataclass(frozen=True)
class Scores:
    """What is said of a set of samples, whatever made them.

    Args:
        comparisons: see `compare_all`; empty without held-out pictures.
        manifold: fidelity and diversity apart; None without held-out pictures.
        inception: inception score; None where the extractor has no classes, or of fewer than a hundred samples.
        reference: distance to statistics; None where none are given.
    """

    comparisons: tuple[Comparison, ...]
    manifold: Manifold | None
    inception: InceptionScore | None
    reference: ReferenceDistance | None


def require_comparable(extractor: FeatureExtractor, held_out: Any, reference: Statistics | None) -> None:
    """Refuse what could not be compared, before hours of sampling.

    Raises:
        GenrefineError: neither held-out pictures nor a reference, or statistics of other features.
    """
    if held_out is None and reference is None:
        raise GenrefineError("a distance needs held-out pictures or a file of statistics; got neither")
    if reference is None:
        return
    count, own = len(reference.mean), extractor.description
    if count != extractor.num_features or reference.extractor not in (None, own):
        raise GenrefineError(
            f"samples and statistics must be described by one network; the statistics are of {count} features of "
            f"{reference.extractor or 'a network that is not named'}, the samples of {own}"
        )


def scores_of(
    extractor: FeatureExtractor,
    samples: Tensor,
    held_out: Tensor | None,
    training: Tensor | None,
    reference: Statistics | None,
    generator: torch.Generator,
) -> Scores:
    """Return all scores that these features allow.

    Args:
        extractor: whose features they are; one with classes (`features.Classifier`) gives an inception score.
        samples: features of the samples.
        held_out, training: features of real pictures, if there are any.
        reference: statistics of real pictures, if there are any.
        generator: draws subsets and halves.

    Raises:
        GenrefineError: neither held-out pictures nor a reference, or statistics of other features.
    """
    require_comparable(extractor, held_out, reference)
    logits = extractor.logits(samples) if isinstance(extractor, Classifier) else None
    inception = None
    if logits is not None and len(samples) >= FEWEST_FOR_INCEPTION:
        inception = inception_score(logits)
    return Scores(
        comparisons=() if held_out is None else compare_all(samples, held_out, training, generator),
        manifold=None if held_out is None else manifold(samples, held_out),
        inception=inception,
        reference=None
        if reference is None
        else ReferenceDistance(reference.name, frechet_to(samples, reference), len(samples)),
    )


def compare_all(
    samples: Tensor, held_out: Tensor, training: Tensor | None, generator: torch.Generator
) -> tuple[Comparison, ...]:
    """Compare samples with held-out pictures, and real pictures with each other for the floors.

    Args:
        samples: features of the samples.
        held_out: features of the held-out pictures.
        training: features of training pictures, if there are any.
        generator: draws subsets and halves.
    """

    def compare(first: str, a: Tensor, second: str, b: Tensor) -> Comparison:
        return Comparison(first, second, len(a), len(b), kernel_distance(a, b, generator), frechet_distance(a, b))

    def some(features: Tensor, count: int) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:count]]

    rows = [compare("samples", samples, "held-out", held_out)]
    if training is not None:
        chosen = some(training, len(samples))
        rows.append(compare("training pictures", chosen, "held-out", held_out))
    mixed = some(held_out, len(held_out))
    one_half, other_half = mixed.tensor_split(2)
    rows.append(compare("half of held-out", one_half, "other half", other_half))
    rows.append(compare("as many samples", some(samples, len(one_half)), "other half", other_half))
    return tuple(rows)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
