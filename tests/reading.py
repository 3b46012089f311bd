"""Read what a program wrote, with every file closed again."""

import json
from pathlib import Path
from typing import Any

from PIL import Image


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_picture(path: str | Path) -> Image.Image:
    """Return a picture whose file is closed."""
    with Image.open(path) as opened:
        return opened.copy()
