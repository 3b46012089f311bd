"""Change nested frozen settings from text, ``training.learning_rate=1e-4``, strictly.

An unknown name, a value of another type or a value that the settings refuse is one clear line.
"""

import ast
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from genrefine.errors import GenrefineError

MAX_CHARACTERS = 1000  # of a number or a list of numbers


def override(settings: Any, changes: Mapping[str, str]) -> Any:
    """Return ``settings`` with each dotted name set to its parsed value.

    Raises:
        GenrefineError: a name does not exist or a value does not fit its type.
    """
    for name, text in changes.items():
        settings = _set(settings, name.split("."), text, name)
    return settings


def _set(settings: Any, path: list[str], text: str, name: str) -> Any:
    known = {f.name for f in fields(settings) if f.init}
    head, rest = path[0], path[1:]
    if head not in known:
        close = get_close_matches(head, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
        raise GenrefineError(f"unknown setting {name!r}; {hint}")
    inner = getattr(settings, head)
    if rest:
        if not is_dataclass(inner):
            raise GenrefineError(f"setting {head!r} has no parts; got {name!r}")
        return replace(settings, **{head: _set(inner, rest, text, name)})
    if is_dataclass(inner):
        parts = ", ".join(f"{name}.{f.name}" for f in fields(inner))
        raise GenrefineError(f"{name!r} is a group of settings; set one of {parts}")
    return replace(settings, **{head: parse(text, get_type_hints(type(settings))[head], name)})


def parse(text: str, kind: Any, name: str) -> Any:
    """Parse ``text`` as a value of the annotated type ``kind``."""
    if len(text) > MAX_CHARACTERS and kind is not str:
        raise GenrefineError(f"{name} must be short; got {len(text)} characters")
    expected = getattr(kind, "__name__", str(kind)).removeprefix("typing.")
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in get_args(kind):
            return None
        return parse(text, next(k for k in get_args(kind) if k is not type(None)), name)
    if origin is Literal:
        if text not in get_args(kind):
            raise GenrefineError(f"{name} must be one of {', '.join(map(str, get_args(kind)))}; got {text!r}")
        return text
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise GenrefineError(f"{name} must be true or false; got {text!r}")
        return text.lower() == "true"
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
        if origin is tuple:
            value = ast.literal_eval(text if text[:1] in "([" else f"({text},)")
            inner = [a for a in get_args(kind) if a is not Ellipsis]
            items = [parse(str(v), inner[min(i, len(inner) - 1)], name) for i, v in enumerate(value)]
            if Ellipsis not in get_args(kind) and len(items) != len(inner):
                raise GenrefineError(f"{name} must have {len(inner)} values; got {text!r}")
            return tuple(items)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        if isinstance(error, GenrefineError):
            raise
        raise GenrefineError(f"{name} must be {expected}; got {text!r}") from error
    raise GenrefineError(f"{name} cannot be set from text")
