"""A folder put where the hub client keeps what it has fetched."""

import shutil
from pathlib import Path


def put_into_hub_cache(folder: Path, cache: Path) -> None:
    """Copy a folder into a cache as the newest version of the repository "org/name"."""
    commit = "0" * 40
    repository = cache / "models--org--name"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
