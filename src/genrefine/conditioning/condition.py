"""What everything that samples or trains asks of a condition (paper section 3.3, classifier-free guidance).

A condition is one description per sample. Guidance also needs the null condition, which tells the network nothing;
training puts it in place of a share of the real ones. Classes, prompts and first frames go through the same few
operations.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@runtime_checkable
class Condition(Protocol):
    """One description per sample, and the operations that sampling and training need."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def null(self) -> "Condition":
        """Return as many samples about which nothing is known."""
        ...

    def select(self, indices: Int[Tensor, "selected"]) -> "Condition":
        """Return the samples at these positions, in this order."""
        ...

    def joined(self, other: Any) -> "Condition":
        """Return these samples followed by the others."""
        ...

    def dropped(self, mask: Bool[Tensor, "batch"]) -> "Condition":
        """Return the samples with those under the mask replaced by null."""
        ...

    def to(self, device: torch.device | str | None, non_blocking: bool = False) -> "Condition":
        """Return the same samples on another device, None for where they are; perhaps before the copies are whole."""
        ...
