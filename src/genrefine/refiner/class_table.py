"""The class table of a refiner replaced by another: classes kept, dropped, reordered and new."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from genrefine.errors import GenrefineError


class ReplaceableClasses:
    """Let a class refiner have other classes than it was built with."""

    class_embedding: nn.Embedding
    class_rows: list[int | None] | None = None
    """Where the classes come from, if they were replaced by `choose_classes`."""
    sizes: Any
    register_to_config: Any

    def choose_classes(self, rows: Sequence[int | None]) -> None:
        """Replace the class table by one in which class i starts as class `rows[i]` of the present one.

        A class without a row starts as the null class: the network says of it what it says of no particular class.

        Args:
            rows: a present class, or None, for each new class.

        Raises:
            GenrefineError: there is no new class, or no such present one.
        """
        null = self.sizes.num_classes
        wrong = [row for row in rows if row is not None and not 0 <= row < null]
        if wrong or not rows:
            raise GenrefineError(f"classes must be one or more of 0 .. {null - 1}, or None for new ones; got {rows}")
        chosen = torch.tensor([*(null if row is None else row for row in rows), null])
        table = self.class_embedding.weight
        with torch.no_grad():
            self.class_embedding = nn.Embedding.from_pretrained(table[chosen.to(table.device)], freeze=False)
        self.register_to_config(num_classes=len(rows))
        self.class_rows = list(rows)
