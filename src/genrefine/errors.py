"""The one exception for what a caller got wrong, and the one warning for what was done about it.

Every message is one line: what was expected, what came, what to do. The command line prints it and exits with code 2.
"""

import inspect
import operator
from collections.abc import Iterable, Sequence
from typing import Any


class GenrefineError(ValueError):
    """Report a wrong input, file or setting in one line."""


class GenrefineNotice(UserWarning):
    """Tell in one line what was changed about an input: words that were cut, a picture that was resized."""


class Terminated(KeyboardInterrupt):
    """Tell that SIGTERM, not Ctrl-C, ended the work."""


def refuse_unknown_settings(owner: type, given: Iterable[str]) -> None:
    """Refuse configuration keys that the constructor of a class does not know; keys with a leading _ are diffusers'.

    Raises:
        GenrefineError: names the keys that it knows, and those it does not.
    """
    known = set(inspect.signature(owner.__init__).parameters) - {"self"}  # type: ignore[misc]
    unknown = sorted(key for key in given if key not in known and not key.startswith("_"))
    if unknown:
        raise GenrefineError(
            f"{owner.__name__} settings are {', '.join(sorted(known))}; got {', '.join(unknown)}; remove it"
        )


def some_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names in words, and how many more there are: a message stays a line."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def whole_number(name: str, value: Any) -> int:
    """Return a whole number of any library as an int.

    Raises:
        GenrefineError: it is none.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise GenrefineError(f"{name} must be a whole number; got {value!r}")
