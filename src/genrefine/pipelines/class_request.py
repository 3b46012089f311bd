"""What a caller asks of a class pipeline, made explicit: one class and one seed per picture.

A class is a name, a number from 0, or None for no class (the null class of guidance).
"""

import difflib
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genrefine.errors import GenrefineError
from genrefine.sampling.options import SamplingSettings

ClassLabel = int | str | None


@dataclass(frozen=True)
class ClassRun:
    """One call, made explicit: which pictures, from which seeds, how.

    Args:
        classes: class number of each picture, the number of classes standing for none.
        seeds: seed of each picture.
        sampling: how they are refined.
        settings: the same as plain arguments of the pipeline.
    """

    classes: list[int]
    seeds: list[int]
    sampling: SamplingSettings
    settings: dict[str, Any]


def resolve_classes(class_labels: Any, class_names: Sequence[str]) -> list[int]:
    """Return one class number per label, the number of classes standing for no class.

    Args:
        class_labels: a name, a number, None, or a sequence or tensor of them.
        class_names: name of each class.

    Raises:
        GenrefineError: no labels, an unknown name or a number out of range.
    """
    if hasattr(class_labels, "tolist"):  # tensors, arrays and their scalars
        class_labels = class_labels.tolist()
    if class_labels is None or isinstance(class_labels, (str, int)):
        class_labels = [class_labels]
    numbers = [_class_number(label, class_names) for label in class_labels]
    if not numbers:
        raise GenrefineError("class_labels must name at least one class; got none; pass None for no class")
    return numbers


def _class_number(label: Any, class_names: Sequence[str]) -> int:
    if label is None:
        return len(class_names)
    if isinstance(label, str):
        return _named_class(label, class_names)
    try:
        number = operator.index(label)
    except TypeError:
        raise GenrefineError(f"a class is a name, a whole number or None; got {label!r}") from None
    if isinstance(label, bool) or not 0 <= number < len(class_names):
        raise GenrefineError(f"class numbers run from 0 to {len(class_names) - 1}; got {label}; use None for no class")
    return number


def _named_class(name: str, class_names: Sequence[str]) -> int:
    if name in class_names:
        return list(class_names).index(name)
    parts = [known for known in class_names if name and name in known.split("/")]
    if parts:
        # A group or a style alone stands for several classes: choosing one would be a guess.
        raise GenrefineError(f"class '{name}' is not one class but {len(parts)}; name one of: {_some(parts)}")
    near = difflib.get_close_matches(name, class_names, n=3, cutoff=0.5)
    hint = f"did you mean {_some([repr(word) for word in near])}?" if near else f"there are: {_some(class_names)}"
    raise GenrefineError(f"no class '{name}' among {len(class_names)}; {hint}")


def _some(words: Sequence[str], most: int = 8) -> str:
    return ", ".join(words[:most]) + (f", ... ({len(words) - most} more)" if len(words) > most else "")
