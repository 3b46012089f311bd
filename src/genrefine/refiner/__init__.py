"""Networks that map (noisy codes, signal, condition) to logits of the clean codes."""

from genrefine.refiner.class_refiner import ClassRefiner
from genrefine.refiner.sizes import CLASS_REFINER_SIZES, class_refiner_config
from genrefine.refiner.text_refiner import TextRefiner
from genrefine.refiner.text_sizes import TEXT_REFINER_SIZES, text_refiner_config

__all__ = [
    "CLASS_REFINER_SIZES",
    "TEXT_REFINER_SIZES",
    "ClassRefiner",
    "TextRefiner",
    "class_refiner_config",
    "text_refiner_config",
]
