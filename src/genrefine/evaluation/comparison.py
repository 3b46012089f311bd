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

from genrefine.evaluation.frechet import KernelDistance, frechet_distance, kernel_distance


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
