"""Small trained pipelines that ship with the package, by name.

Every folder here that holds a `model_index.json` is a model; its name is the folder's name.
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

from genrefine.errors import GenrefineError
from genrefine.model_folder import find as _find

if TYPE_CHECKING:
    from genrefine.pipelines import ClassPipeline, TextPipeline

__all__ = ["load", "names", "path"]


def names() -> list[str]:
    """Return the names of the shipped models."""
    return _find.shipped_models()


def path(name: str) -> _Path:
    """Return the folder of a shipped model.

    Raises:
        GenrefineError: no such model ships.
    """
    if name not in names():
        raise GenrefineError(f"no shipped model '{name}'; expected one of: {', '.join(names()) or 'none'}")
    return _find.SHIPPED / name


def load(name: str, **options: Any) -> "ClassPipeline | TextPipeline":
    """Load a shipped model.

    Args:
        name: one of `names()`.
        options: passed to `from_pretrained` of the pipeline's class, which its `model_index.json` names.

    Raises:
        GenrefineError: no such model ships, or its files are damaged.
    """
    from genrefine.pipelines import load_pipeline

    return load_pipeline(path(name), **options)
