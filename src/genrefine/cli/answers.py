"""What a verb says: lines on standard output, numbers as JSON."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrefine.files import process_place, write_atomically


def is_first_process() -> bool:
    """Return whether this process is the only one or the first of several."""
    return process_place()[0] == 0


def say(line: str = "") -> None:
    """Print one line; of several processes (`torchrun`) the first speaks for all."""
    if not is_first_process():
        return
    sys.stdout.write(f"{line}\n")


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as indented JSON.

    Raises:
        GenrefineError: the path cannot be written.
    """
    from genrefine import __version__

    content = json.dumps({"genrefine": __version__, **record}, indent=2, ensure_ascii=False)
    write_atomically(path, f"{content}\n".encode())
