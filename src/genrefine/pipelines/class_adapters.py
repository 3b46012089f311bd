"""Adapters of class pipelines, which may bring classes of their own."""

import os
from typing import Any

from torch import nn

from genrefine.pipelines.refinement_pipeline import RefinementPipeline
from genrefine.refiner.adapter import Adapter


class ClassAdapters(RefinementPipeline):
    """Load and unload adapters together with the names of their classes."""

    class_names: Any
    _own_classes: tuple[nn.Module, list[int | None] | None, list[str]] | None = None
    """Class table, its origin and names as they were before an adapter brought its own."""

    def load_lora_weights(  # type: ignore[override]
        self, folder: str | os.PathLike[str], adapter_name: str = "default", scale: float = 1.0, **fetching: Any
    ) -> Adapter:
        """Put an adapter beside the refiner's weights; see `RefinementPipeline.load_lora_weights`.

        An adapter with classes of its own replaces those of the model until it is unloaded.
        """
        before = self.refiner.class_embedding, self.refiner.class_rows, self.class_names
        adapter = super().load_lora_weights(folder, adapter_name, scale, **fetching)
        if adapter.facts.class_rows is not None:
            names = adapter.facts.class_names or [str(number) for number in range(len(adapter.facts.class_rows))]
            self._own_classes = before
            self.register_to_config(class_names=names)
        return adapter

    def unload_lora_weights(self) -> None:
        """Take all adapters away. What was fused stays; otherwise the model is again what it was, classes included."""
        is_fused = any(getattr(layer, "merged_adapters", ()) for layer in self.refiner.modules())
        super().unload_lora_weights()
        if self._own_classes is not None and not is_fused:
            table, rows, names = self._own_classes
            self.refiner.class_embedding, self.refiner.class_rows = table, rows
            self.refiner.register_to_config(num_classes=len(names))
            self.register_to_config(class_names=names)
        self._own_classes = None
