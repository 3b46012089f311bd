"""The address of every class that a saved model names: `["genrefine.registry", "ClassRefiner"]` in `model_index.json`.

Modules may move; this one does not. diffusers imports the module that a folder names and looks in it for the component
and for the classes of its own that say how such a component is loaded; so both kinds are named here, and nothing else.
Folders written by version 0.1.0 name the modules of that version: `current_address` tells what became of them.
"""

from collections.abc import Mapping
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from genrefine.refiner.class_refiner import ClassRefiner
from genrefine.refiner.text_refiner import TextRefiner
from genrefine.sampling.component import RefinementSampler
from genrefine.tokenizer.tokenizer import VisualTokenizer

__all__ = ["ClassRefiner", "ModelMixin", "RefinementSampler", "SchedulerMixin", "TextRefiner", "VisualTokenizer"]

ADDRESS = "genrefine.registry"
COMPONENTS = ("ClassRefiner", "TextRefiner", "VisualTokenizer", "RefinementSampler")
_OLD = {
    ("genrefine.refiner.class_refiner", "ClassRefiner"),
    ("genrefine.refiner.text_refiner", "TextRefiner"),
    ("genrefine.tokenizer.tokenizer", "VisualTokenizer"),
    ("genrefine.sampler", "RefinementSampler"),
}


def current_address(module: Any, name: Any) -> tuple[Any, Any]:
    """Return module and name under which a class that a saved model names is found today."""
    return (ADDRESS, name) if (module, name) in _OLD else (module, name)


def _is_address(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, str) for part in value)


def with_current_addresses(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `model_index.json` with the addresses of today, and the name of its class alone.

    Saved folders name their class as `["pipeline", NAME]`: that sends stock diffusers, which looks for classes in
    itself only, to the folder's `pipeline.py`, if it may run it. We read the name and never that file.
    """
    named = index.get("_class_name")
    if isinstance(named, list | tuple) and named:
        index = {**index, "_class_name": named[-1]}
    return {key: list(current_address(*value)) if _is_address(value) else value for key, value in index.items()}
