"""Find a model by name: a folder on this machine, or a repository of the hub brought into its cache."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrefine.errors import GenrefineError

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
)
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md", "LICENSE*")


def fetch_folder(
    name: str, options: Mapping[str, Any], patterns: Sequence[str] = PIPELINE_FILES, what: str = "model"
) -> Path:
    """Download a pipeline, or something else, from the hub and return its folder in the cache.

    diffusers' own download refuses repositories whose components live in another package; this asks the same hub client
    for the files a pipeline folder has.

    Args:
        name: "org/name".
        options: loading options, of which those for the hub are used.
        patterns: files to fetch.
        what: word for it in errors.

    Raises:
        GenrefineError: there is neither such a folder nor such a repository, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if name.count("/") != 1 or name.startswith((".", "/")) or name.endswith("/"):
        raise GenrefineError(
            f"no {what} folder at '{name}'; expected a folder or 'org/name' on the hub; check the path"
        )
    fetching = {key: options[key] for key in FETCHING if key in options}
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), **fetching))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise GenrefineError(
            f"no {what} at '{name}', neither here nor on the hub ({reason}); check the name"
        ) from error
