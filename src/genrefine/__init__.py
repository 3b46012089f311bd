"""Generative Refinement Networks (arXiv 2604.13030): pictures and clips by refining a map of binary codes.

The public names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_EXPORTS = {
    "HBQ": "genrefine.hbq",
    "VisualTokenizer": "genrefine.tokenizer",
    "ClassRefiner": "genrefine.refiner",
    "TextRefiner": "genrefine.refiner",
    "RefinementSampler": "genrefine.sampling.component",
    "ClassPipeline": "genrefine.pipelines",
    "TextPipeline": "genrefine.pipelines",
    "GenrefineError": "genrefine.errors",
}
_FUNCTIONS = {"load": ("genrefine.pipelines", "load_pipeline")}

__all__ = [*_EXPORTS, *_FUNCTIONS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    if name in _FUNCTIONS:
        module, function = _FUNCTIONS[name]
        return getattr(import_module(module), function)
    raise AttributeError(f"module 'genrefine' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
