"""Weights of a refiner carried over to codes of more or fewer rounds (HBQ rounds are nested, method section 1).

Bit codes are round-major: the codes of M rounds are the first M * d channels of those of more rounds. Two layers of a
refiner know the channels: the one that reads one-hot codes and the one that writes logits.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_AXES = {
    "code_embedding.compress.weight": 1,  # class refiner
    "code_embedding.weight": 1,  # text refiner
    "head.linear.weight": 0,
    "head.linear.bias": 0,
}


def to_rounds(
    weights: Mapping[str, Tensor], code_channels: int, code_classes: int, class_major: bool
) -> dict[str, Tensor]:
    """Return a refiner's weights for bit codes of the same latent channels and another number of rounds.

    Further rounds start at zero: what the network says of the rounds it knows does not depend on them, and of the new
    ones it says that every class is as likely. Rounds that are dropped are no longer read.

    Args:
        weights: state of a refiner.
        code_channels: code channels wanted.
        code_classes: classes of one code, the same before and after.
        class_major: one-hot codes and logits run over channels within a class, as in class refiners, and not over
            classes within a channel, as in text refiners.
    """
    groups = code_classes if class_major else 1
    size = code_channels * code_classes // groups
    return {name: _resize(weight, _AXES.get(name), groups, size) for name, weight in weights.items()}


def _resize(weight: Tensor, axis: int | None, groups: int, size: int) -> Tensor:
    """Cut or pad with zeros each of the groups that an axis consists of."""
    if axis is None:
        return weight
    by_group = weight.unflatten(axis, (groups, -1))
    kept = by_group.narrow(axis + 1, 0, min(size, by_group.shape[axis + 1]))
    shape = [*kept.shape]
    shape[axis + 1] = size - shape[axis + 1]
    return torch.cat([kept, kept.new_zeros(shape)], dim=axis + 1).flatten(axis, axis + 1)
