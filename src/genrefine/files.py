"""The one way a file or a folder is written: beside its place, flushed to disk, renamed into it.

An interrupted run leaves the old one or the new one and never half of one. What a killed process left beside a place
has a name that begins with a dot and is never read.
"""

import hashlib
import json
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genrefine.errors import GenrefineError

LARGEST_JSON = 256_000_000
"""Bytes: the names of some million pictures; what is larger is not what we or diffusers write."""


def process_place() -> tuple[int, int]:
    """Return the number of this process and how many there are, as `torchrun` says; 0 of 1 without it."""
    processes = int(os.environ.get("WORLD_SIZE") or 1)
    return (int(os.environ.get("RANK") or 0) if processes > 1 else 0), processes


def require_writable(path: str | os.PathLike[str]) -> None:
    """Create the parent folders of a file to come and prove that it can be written there.

    Long work calls this first, so that an hour of computing never ends at a closed door.

    Raises:
        GenrefineError: the path is a folder, or its parent cannot be made or written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:40]}."):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def require_writable_folder(path: str | os.PathLike[str]) -> None:
    """Create a folder and prove that files can be written in it.

    Raises:
        GenrefineError: it cannot be made, is a file, or refuses new files.
    """
    require_writable(Path(path) / "new")


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file or nothing.

    Raises:
        GenrefineError: the path cannot be written.
    """
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside a file; what is written there takes the file's place in the end, or vanishes after an error.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a new folder beside another; it takes that one's place in the end, or vanishes after an error.

    An empty folder may be there; one that holds files stays, and is an error.

    Raises:
        OSError: it cannot be written.
    """
    beginning = f".{folder.name[:40]}.{platform.node()[:20]}-"
    temporary = folder.with_name(f"{beginning}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        _remove_left_behind(folder.parent, beginning)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                flush(path)
        if folder.is_dir():
            folder.rmdir()  # Windows cannot rename onto a folder
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_left_behind(parent: Path, beginning: str) -> None:
    """Remove what killed processes of this machine left of the same folder."""
    for left in parent.iterdir():
        pid = left.name.removeprefix(beginning).partition("-")[0]
        if left.name.startswith(beginning) and pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # asking would end it; what is left behind stays there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def flush(path: Path) -> None:
    """Bring what was written to a file to the disk itself, so that a rename cannot come before its content."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def read_json(path: Path, advice: str = "fetch or save it again") -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: of at most `LARGEST_JSON` bytes.
        advice: what to do about a file that is none.

    Raises:
        GenrefineError: it cannot be read, or is no JSON object.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has more than {LARGEST_JSON / 1e6:g} MB")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise GenrefineError(f"'{path}' is not readable JSON ({one_line(error)}); {advice}") from error
    return json_object(content, f"'{path}'", advice)


def json_object(content: str | bytes, what: str, advice: str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Args:
        content: the text.
        what: what the error calls it.
        advice: what to do about a text that is none.

    Raises:
        GenrefineError: it is no JSON, nested too deep, or no object.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise GenrefineError(f"{what} is not readable JSON ({one_line(error)}); {advice}") from error
    if not isinstance(found, dict):
        raise GenrefineError(f"{what} must hold a JSON object; got {type(found).__name__}; {advice}")
    return found


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file.

    Args:
        progress: called with the number of bytes after each block.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def _unwritable(path: str | os.PathLike[str], error: OSError) -> GenrefineError:
    reason = error.strerror or one_line(error)
    return GenrefineError(f"cannot write '{path}' ({reason}); choose another output path")


def one_line(error: BaseException) -> str:
    """Return an error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
