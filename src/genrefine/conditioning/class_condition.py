"""What a refiner is told about the picture it makes (paper section 3.3, classifier-free guidance).

A condition `c` is one description per sample. Guidance also needs the null condition, which tells the network
nothing; training puts it in place of a share of the real ones. Everything that samples or trains asks a condition
only for the few operations of the protocol `Condition`, so that classes, prompts and first frames go through the same
code.

Class labels: 0 .. num_classes - 1 name a class, `num_classes` is the null label (as in the published weights, where
it is 1000 for ImageNet).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from jaxtyping import Bool, Int
from torch import Tensor

from genrefine.errors import GenrefineError


@dataclass(frozen=True)
class ClassCondition:
    """Name one picture class per sample.

    Args:
        labels: class of each sample in 0 .. num_classes, where num_classes stands for "no class"; kept as int64.
        num_classes: picture classes, without the null class.

    Raises:
        GenrefineError: if a label is outside its range.

    Example:
        >>> condition = ClassCondition.of([3, 0], num_classes=10)
        >>> condition.joined(condition.null()).labels.tolist()
        [3, 0, 10, 10]
    """

    labels: Int[Tensor, "batch"]
    num_classes: int

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise GenrefineError(f"num_classes must be at least 1; got {self.num_classes}")
        object.__setattr__(self, "labels", self.labels.long())
        # Values are read on the host, which a compiled graph cannot do and a meta tensor does not have.
        if torch.compiler.is_compiling() or self.labels.is_meta or not self.labels.numel():
            return
        low, high = torch.stack(torch.aminmax(self.labels)).tolist()
        if low < 0 or high > self.num_classes:
            wrong = low if low < 0 else high
            raise GenrefineError(
                f"class labels must lie in 0 .. {self.num_classes - 1}, or {self.num_classes} for no class; got {wrong}"
            )

    @staticmethod
    def of(labels: Sequence[int], num_classes: int, device: torch.device | str = "cpu") -> "ClassCondition":
        """Build a condition from plain integers."""
        return ClassCondition(torch.tensor(list(labels), dtype=torch.long, device=device), num_classes)

    def __len__(self) -> int:
        return self.labels.shape[0]

    def null(self) -> "ClassCondition":
        """Return as many samples without a class."""
        return self._with(torch.full_like(self.labels, self.num_classes))

    def select(self, indices: Int[Tensor, "selected"]) -> "ClassCondition":
        """Return the samples at these positions, in this order."""
        return self._with(self.labels[indices.to(self.labels.device)])

    def joined(self, other: "ClassCondition") -> "ClassCondition":
        """Return these samples followed by the others.

        Raises:
            GenrefineError: if the two count different classes.
        """
        if other.num_classes != self.num_classes:
            raise GenrefineError(
                f"conditions to join must count the same classes; got {self.num_classes} and {other.num_classes}"
            )
        return self._with(torch.cat([self.labels, other.labels.to(self.labels.device)]))

    def dropped(self, mask: Bool[Tensor, "batch"]) -> "ClassCondition":
        """Return the samples with the label under the mask replaced by the null label (label dropout)."""
        return self._with(self.labels.masked_fill(mask.to(self.labels.device), self.num_classes))

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> "ClassCondition":
        """Return the same samples on another device."""
        return self._with(self.labels.to(device, non_blocking=non_blocking))

    def _with(self, labels: Tensor) -> "ClassCondition":
        return ClassCondition(labels, self.num_classes)


def _flatten(condition: ClassCondition) -> tuple[list[Tensor], int]:
    return [condition.labels], condition.num_classes


def _flatten_with_keys(condition: ClassCondition) -> tuple[list[tuple[Any, Tensor]], int]:
    return [(pytree.GetAttrKey("labels"), condition.labels)], condition.num_classes


def _unflatten(labels: Iterable[Any], num_classes: int) -> ClassCondition:
    condition = object.__new__(ClassCondition)  # of whatever stands for the labels, which a check could not read
    object.__setattr__(condition, "labels", *labels)
    object.__setattr__(condition, "num_classes", num_classes)
    return condition


# So that compiled and exported networks take conditions as arguments.
pytree.register_pytree_node(
    ClassCondition,
    _flatten,
    _unflatten,
    serialized_type_name="genrefine.conditioning.ClassCondition",
    flatten_with_keys_fn=_flatten_with_keys,
)
