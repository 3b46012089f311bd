"""Read the JSON of a model folder."""

import json
from pathlib import Path
from typing import Any

from genrefine.errors import GenrefineError


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        GenrefineError: it cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GenrefineError(f"'{path}' is not readable JSON ({error}); fetch or save the model again") from error
    if not isinstance(content, dict):
        raise GenrefineError(f"'{path}' must hold a JSON object; got {type(content).__name__}; fetch the model again")
    return content
