"""Size and SHA-256 of every weight file and vocabulary of a model folder, in its `checksums.json`.

They are written after everything else and compared before anything is loaded.
"""

import json
from collections.abc import Collection
from pathlib import Path

from genrefine.errors import GenrefineError
from genrefine.files import read_json, sha256_of, write_atomically
from genrefine.model_folder.encoder_folder import VOCABULARIES

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Record size and SHA-256 of every weight file and vocabulary below a folder."""
    files = [path for path in folder.rglob("*") if path.suffix == ".safetensors" or path.name in VOCABULARIES]
    records = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(files)
    }
    write_atomically(folder / CHECKSUMS, (json.dumps(records, indent=2) + "\n").encode())


def verify_checksums(folder: Path, without: Collection[str] = ()) -> None:
    """Compare every recorded weight file with its size and hash; do nothing in a folder without a record.

    Args:
        folder: with the record.
        without: folders in it that are not read.

    Raises:
        GenrefineError: a file is missing, has another size, or other content.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    for name, record in read_json(path).items():
        if name.partition("/")[0] in without:
            continue
        weights = folder / name
        if not isinstance(record, dict) or not isinstance(record.get("bytes"), int) or "sha256" not in record:
            raise GenrefineError(f"'{path}' must record bytes and sha256 of '{name}'; fetch or save the model again")
        if not weights.is_file():
            raise GenrefineError(f"the model lacks its weight file '{weights}'; fetch or save the model again")
        size = weights.stat().st_size
        if size != record["bytes"]:
            state = "truncated" if size < record["bytes"] else "altered"
            raise GenrefineError(
                f"weight file '{weights}' is {state}: expected {record['bytes']} bytes; got {size}; "
                "fetch or save the model again"
            )
        if sha256_of(weights) != record["sha256"]:
            raise GenrefineError(
                f"weight file '{weights}' is altered: its SHA-256 is not that recorded; fetch or save the model again"
            )
