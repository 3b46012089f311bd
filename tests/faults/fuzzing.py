"""Files with something wrong in them: odd values in their JSON, bytes turned, cut or repeated."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        2,
        3.5,
        1e30,
        -1e30,
        float("nan"),
        float("inf"),
        10**30,
        "",
        "x",
        "../x",
        "\0",
        "é" * 300,
    ),
    *([], {}, [None], [[]], {"x": 1}, [1, 2, 3, 4, 5], ["x", 3], {"": {}}),
]


def altered(content: bytes, random_number: random.Random) -> bytes:
    """Return a file with one thing wrong: where it is JSON mostly a value, else bytes."""
    if random_number.random() < 0.8:
        try:
            return _with_odd_value(content, random_number)
        except ValueError:
            pass
    return _with_odd_bytes(content, random_number)


def _with_odd_value(content: bytes, chance: random.Random) -> bytes:
    whole = json.loads(content)
    places = list(_places(whole))
    holder, key = chance.choice(places) if places else (None, None)
    deed = chance.random()
    if holder is None:
        whole = chance.choice(ODD)
    elif deed < 0.15:
        del holder[key]
    elif deed < 0.3 and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    elif deed < 0.35:
        holder[key] = json.loads("[" * 200 + "]" * 200)
    else:
        holder[key] = chance.choice(ODD)
    return json.dumps(whole).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every value in a structure, as its holder and its key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _with_odd_bytes(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    length = chance.choice([1, 1, 1, 8, 64])
    deed = chance.randrange(4)
    if deed == 0:
        return content[:start]
    if deed == 1:
        return content[:start] + chance.randbytes(length) + content[start + length :]
    if deed == 2:
        return content[:start] + content[start : start + length] * 2 + content[start + length :]
    return content[:start] + content[start + length :]


def restored(folder: Path) -> dict[Path, bytes]:
    """Return the content of every file, to write it again after a case."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
