"""Settings say beside their default which numbers make sense; everything else is refused before anything is built.

    learning_rate: float = number(1e-4, above=0, at_most=1e6)

The numbers of a tuple each have the range; None has none. NaN lies in no range.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from genrefine.errors import GenrefineError

NUMBERS = "numbers"  # key of a field's metadata


@dataclass(frozen=True)
class Range:
    """Numbers from ``at_least``, or above ``above``, up to ``at_most``, or below ``below``."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            value == value
            and abs(value) != float("inf")
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low = f"at least {self.at_least:.9g}" if self.at_least is not None else f"above {self.above:.9g}"
        high = f"at most {self.at_most:.9g}" if self.at_most is not None else f"below {self.below:.9g}"
        return f"{low} and {high}"


def number(default: Any, **limits: float) -> Any:
    """Declare a setting that is a number, or a tuple of them, by its default and its `Range`."""
    return field(default=default, metadata={NUMBERS: Range(**limits)})


def check_ranges(settings: Any, group: str = "") -> None:
    """Refuse a number outside its range.

    Args:
        settings: a dataclass whose numbers were declared by `number`.
        group: how users name it, "training" for instance.

    Raises:
        GenrefineError: the first that is outside, by its name.
    """
    for declared in fields(settings):
        numbers = declared.metadata.get(NUMBERS)
        value = getattr(settings, declared.name)
        if numbers is None or value is None:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if one not in numbers:
                name = f"{group}.{declared.name}" if group else declared.name
                raise GenrefineError(f"{name} must be {numbers}; got {one!r}")
