"""Read a published checkpoint without running code from it.

A published file is a pickle of nested dictionaries of tensors, or safetensors. A pickle is read with
`weights_only=True`; the one class let through is `argparse.Namespace`, the training arguments inside the
class-to-image files. Tensors stay on disk, mapped, until they are used.

Refused in one line: files that are damaged (the checksum of every record in an archive is computed), or that hold other
objects, archives with names that repeat or leave the archive or with compressed records, tensors that no key leads to
(a key that was given twice), and weights that are no floating-point numbers.
"""

import argparse
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from genrefine.errors import GenrefineError

State = dict[str, Tensor]
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PICKLES = (".pth", ".pt", ".ckpt", ".bin")
SAFETENSORS = ".safetensors"
_LONGEST_HEADER = 100_000_000
_PIECE = 1 << 20


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the dictionary in a published file, with its tensors left on disk until they are used.

    Raises:
        GenrefineError: if the file is missing, damaged, no dictionary, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise GenrefineError(f"checkpoint must be a file; got {path}; give the path of the downloaded .pth or .ckpt")
    return read_safetensors(path) if path.suffix == SAFETENSORS else _read_pickle(path)


def _read_pickle(path: Path) -> dict[str, Any]:
    is_archive = zipfile.is_zipfile(path)
    records = _checked_records(path) if is_archive else 0
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise GenrefineError(
                f"checkpoint must hold tensors and plain values only; {path.name} holds {foreign[1]}; do not load it"
            ) from error
        raise GenrefineError(
            f"checkpoint must be a file that torch.save wrote; {path.name} is not or is damaged; download it again"
        ) from error
    if not isinstance(content, dict):
        raise GenrefineError(f"checkpoint must be a dictionary; {path.name} holds a {type(content).__name__}")
    reachable = {tensor.untyped_storage().data_ptr() for tensor in _tensors(content) if tensor.numel()}
    if is_archive and len(reachable) < records:
        raise GenrefineError(
            f"{path.name} stores {records} tensors but its keys lead to {len(reachable)}: a key was given twice; "
            "download it again"
        )
    return content


def _checked_records(path: Path) -> int:
    """Check the names in an archive and return how many of its records hold numbers."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(path, entries)
            _check_contents(path, archive, entries)
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise GenrefineError(f"{path.name} is not or is damaged ({error}); download it again") from error
    return sum(bool(re.fullmatch(r"[^/]+/data/\d+", entry.filename)) and entry.file_size > 0 for entry in entries)


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    names = Counter(entry.filename for entry in entries)
    for name, count in names.items():
        if count > 1:
            raise GenrefineError(f"the archive {path.name} has the name '{name}' {count} times; download it again")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise GenrefineError(f"the archive {path.name} has the name '{name}', which leaves it; do not load it")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise GenrefineError(
                f"the archive {path.name} has the compressed record '{entry.filename}', which torch.save never writes; "
                "do not load it"
            )


def _check_contents(path: Path, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    """Read every record once; torch compares no checksum, and takes altered weights for weights."""
    total = sum(entry.file_size for entry in entries)
    with tqdm(total=total, unit="B", unit_scale=True, desc="checking", disable=None, leave=False, delay=1) as bar:
        for entry in entries:
            try:
                with archive.open(entry) as record:
                    while piece := record.read(_PIECE):
                        bar.update(len(piece))
            except zipfile.BadZipFile as error:
                raise GenrefineError(
                    f"record '{entry.filename}' of {path.name} is not what was saved (its checksum differs); download "
                    "the file again, or save it again if it was written without checksums"
                ) from error


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, (list, tuple, set, frozenset)):
        for part in content:
            yield from _tensors(part)
    elif isinstance(content, (dict, argparse.Namespace)):
        for part in (content if isinstance(content, dict) else vars(content)).values():
            yield from _tensors(part)


def read_safetensors(path: Path) -> State:
    """Return the tensors of a safetensors file, left on disk until they are used.

    Raises:
        GenrefineError: if the file is damaged or has a name twice.
    """
    names = [name for name in _header_names(path) if name != "__metadata__"]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise GenrefineError(f"{path.name} has the key '{repeated[0]}' twice; download it again")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise GenrefineError(f"{path.name} is no whole safetensors file ({reason}); download it again") from error


def _header_names(path: Path) -> list[str]:
    """Return the names in a header as they stand, those given twice too, which a dictionary would hide."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size):
                raise ValueError(f"a header of {length} bytes")
            pairs = json.loads(file.read(length), object_pairs_hook=lambda pairs: pairs)
        return [name for name, _ in pairs]
    except (OSError, ValueError, TypeError) as error:
        raise GenrefineError(f"{path.name} is no whole safetensors file ({error}); download it again") from error


def weight_sets(content: Mapping[str, Any]) -> dict[str, State]:
    """Return the sets of weights in a checkpoint by their names, those that the authors use first.

    Class-to-image files hold `model_ema1`, `model_ema2` and `model`, tokenizer files `ema` and `vae`, training
    checkpoints of text models `gpt_ema_fsdp` and `gpt_fsdp`; a flat file is the one set "".

    Raises:
        GenrefineError: naming the first keys, if there are no weights.
    """
    trainer = content.get("trainer")
    inside = trainer if isinstance(trainer, dict) else content
    sets = {name: inside[name] for name in _SETS if isinstance(inside.get(name), dict)}
    if not sets and content and all(isinstance(tensor, Tensor) for tensor in content.values()):
        sets = {"": dict(content)}
    for name, state in sets.items():
        wrong = [key for key, tensor in state.items() if not isinstance(tensor, Tensor) or not isinstance(key, str)]
        if wrong or not state:
            what = f"'{wrong[0]}' is none" if wrong else "it is empty"
            raise GenrefineError(f"'{name}' in the checkpoint must hold named tensors only; {what}; download it again")
    if not sets:
        found = ", ".join(sorted(map(str, content))[:8]) or "nothing"
        raise GenrefineError(f"a checkpoint has weights at its top or under {', '.join(_SETS)}; this one has {found}")
    return sets


_SETS = ("model_ema1", "model_ema2", "model", "ema", "vae", "gpt_ema_fsdp", "gpt_fsdp")
_NOT_BY_DEFAULT = ("model_ema2", "model")


def pick_weights(content: Mapping[str, Any], name: str | None = None) -> tuple[str, State]:
    """Return the set of weights of this name, or the one that the authors use, with its name.

    Raises:
        GenrefineError: if there is no such set, a weight has no published number format, or formats are mixed.
    """
    sets = weight_sets(content)
    chosen = next((key for key in sets if key not in _NOT_BY_DEFAULT), None) if name is None else name
    if chosen not in sets:
        found = ", ".join(key for key in sets if key) or "one set without a name"
        raise GenrefineError(
            f"checkpoint must have weights under {name or 'model_ema1'!r}; it has {found}; choose one of these"
        )
    state = sets[chosen]
    for key, tensor in state.items():
        if tensor.dtype not in WEIGHT_DTYPES or tensor.layout is not torch.strided:
            raise GenrefineError(
                f"weights must be float32, bfloat16 or float16; '{key}' is {str(tensor.dtype).removeprefix('torch.')}"
            )
    return chosen, state
