"""The one way a file is written: beside its place, then renamed into it.

An interrupted run leaves the old file or the new one and never half of one.
"""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from genrefine.errors import GenrefineError


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
    """Write a whole file or nothing: temporary neighbor, flush to disk, rename.

    Raises:
        GenrefineError: the path cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _unwritable(path, error) from error


def _unwritable(path: str | os.PathLike[str], error: OSError) -> GenrefineError:
    reason = error.strerror or one_line(error)
    return GenrefineError(f"cannot write '{path}' ({reason}); choose another output path")


def one_line(error: BaseException) -> str:
    """Return an error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
