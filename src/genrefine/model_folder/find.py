"""Find a model by name: a folder on this machine, a model that ships, or a repository of the hub.

This is the only rule, for Python (`genrefine.load`), the command line (`--model`) and the settings of a run
(`tokenizer=`, `refiner.start=`). An existing folder comes first, then the name of a shipped model, then "org/name",
which is brought into the cache of the hub's client.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrefine.errors import GenrefineError

SHIPPED = Path(__file__).parents[1] / "zoo"
"""Every folder here that holds a `model_index.json` is a model; its name is the folder's name."""
FETCHING = ("cache_dir", "force_download", "local_files_only", "revision", "token")

PIPELINE_FILES = (
    "*.json",
    "*/*.json",
    "*/*.safetensors",
    "*/*.model",
    "*.txt",
    "*/*.txt",
    "README.md",
    "LICENSE*",
    "*/LICENSE*",
    "pipeline.py",
)
ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "README.md",
    "LICENSE*",
)


def shipped_models() -> list[str]:
    """Return the names of the models that ship with the package."""
    return sorted(index.parent.name for index in SHIPPED.glob("*/model_index.json"))


def local_model(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder of this path, or of the shipped model of this name; None without either."""
    if os.path.isdir(name):
        return Path(name)
    return SHIPPED / name if os.fspath(name) in shipped_models() else None


def find_model(name: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Path:
    """Return the folder of a model.

    Args:
        name: folder, shipped model, or "org/name" on the hub.
        options: loading options, of which those for the hub are used.

    Raises:
        GenrefineError: there is none, or the hub cannot be reached.
    """
    return local_model(name) or fetch_folder(os.fspath(name), options or {})


def find_part(name: str | os.PathLike[str], part: str) -> Path:
    """Return the folder of a component: the folder itself, or that part of a pipeline.

    Raises:
        GenrefineError: as in `find_model`.
    """
    place = find_model(name)
    return place / part if (place / "model_index.json").is_file() else place


def fetch_folder(
    name: str,
    options: Mapping[str, Any],
    patterns: Sequence[str] = PIPELINE_FILES,
    what: str = "model",
    without: Sequence[str] = (),
) -> Path:
    """Download a pipeline, or something else, from the hub and return its folder in the cache.

    diffusers' own download refuses repositories whose components live in another package; this asks the same hub client
    for the files a pipeline folder has.

    Args:
        name: "org/name".
        options: loading options, of which those for the hub are used.
        patterns: files to fetch.
        what: word for it in errors.
        without: folders in it that are not needed.

    Raises:
        GenrefineError: there is neither such a folder nor such a repository, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if name.count("/") != 1 or name.startswith((".", "/")) or name.endswith("/"):
        raise GenrefineError(
            f"no {what} folder at '{name}'; expected a folder, 'org/name' on the hub, or a shipped model "
            f"({', '.join(shipped_models()) or 'none'}); check the path"
        )
    fetching = {key: options[key] for key in FETCHING if key in options}
    try:
        left_out = [f"{folder}/*" for folder in without]
        return Path(snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=left_out, **fetching))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise GenrefineError(
            f"no {what} at '{name}', neither here nor on the hub ({reason}); check the name"
        ) from error
