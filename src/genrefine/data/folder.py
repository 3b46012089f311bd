"""List the files of a folder, and what a table beside them says of each.

Without a table an item is a file with an ending of its kind, and its class is the folder it lies in, relative to the
root. With one, `metadata.jsonl` or `metadata.csv`, an item is a row; `file_name` is relative to the table, which may
lie above the splits or once in every class. Links are followed, folders and files alike, as the Hub's cache is made of
them; a folder that contains itself is entered once. A name in a table that leads out of the folder is refused.

Whatever is not used is counted with a reason: `FileListing.left_out`.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from genrefine.errors import GenrefineError

TABLES = ("metadata.jsonl", "metadata.csv")
LABEL_COLUMNS = ("class_name", "label")
_SILENT = ("readme", "license", "licence", "notice", "checksums", "dataset_info")  # about the data, not data

LeftOut = dict[str, list[str]]
"""Reason -> names of what is not used for it."""


@dataclass(frozen=True)
class Kind:
    """What a source reads.

    Args:
        singular, plural: its names in messages.
        suffixes: of its files, lower case.
    """

    singular: str
    plural: str
    suffixes: frozenset[str]


MOVING_PICTURES = (".gif", ".webp")
STILL_PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2"),
)
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".wmv", ".flv", ".apng")
PICTURES = Kind("picture", "pictures", frozenset(STILL_PICTURES + MOVING_PICTURES))
CLIPS = Kind("clip", "clips", frozenset(VIDEOS + MOVING_PICTURES))


@dataclass(frozen=True)
class FileListing:
    """Files under one root, with columns beside them."""

    root: Path
    names: Sequence[str]
    values: Mapping[str, Sequence[Any]]
    left_out: LeftOut = field(default_factory=dict)

    @property
    def columns(self) -> Sequence[str]:
        """Return the names of the columns."""
        return list(self.values)

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of one column."""
        return self.values[name]

    def read(self, index: int) -> Path | bytes:
        """Return the path of one item."""
        return self.root / self.names[index]

    def stamp(self, index: int) -> str:
        """Return size and time of one file."""
        try:
            found = (self.root / self.names[index]).stat()
        except OSError:
            return ""
        return f"{found.st_size} {found.st_mtime_ns}"


def list_folder(place: Path, kind: Kind, split: str | None) -> FileListing:
    """List the pictures or clips of a folder.

    Args:
        place: the folder.
        kind: what to look for.
        split: subfolder to take; None takes all.

    Raises:
        GenrefineError: there is no such split, a folder cannot be listed, or a table cannot be read.
    """
    root = place if split is None else place / split
    if not root.is_dir():
        raise GenrefineError(f"no split '{split}' in '{place}'; expected a subfolder of that name")
    files = sorted(walk(root))
    if tables := [file for file in files if file.name in TABLES]:
        return _list_rows(root, tables, files, kind)
    above = [place / name for name in TABLES if split is not None and (place / name).is_file()]
    if above:
        inside = [Path(str(split)) / file for file in files]
        return _list_rows(place, [Path(above[0].name)], inside, kind, f"{split}/")
    left_out: LeftOut = {}
    items = [file for file in files if _is_item(root, file, kind, left_out)]
    classes = [file.parent.as_posix() if len(file.parts) > 1 else root.resolve().name for file in items]
    return FileListing(root, [file.as_posix() for file in items], {"class_name": classes}, left_out)


def walk(root: Path) -> Iterator[Path]:
    """Yield every visible file below a folder, relative to it; links are followed, cycles are not.

    Raises:
        GenrefineError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise GenrefineError(f"cannot list '{error.filename}' ({error.strerror}); make it readable or move it away")

    entered: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(folder)
        is_linked = here.resolve() != root.resolve() / here.relative_to(root)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in [name for name in subfolders if (here / name).is_symlink()]:  # only a link can lead back
            target = _identity(here / name)
            # Links within linked folders once each: else their number could grow beyond all bounds.
            if target in map(_identity, (here, *here.parents)) or (is_linked and target in entered):
                subfolders.remove(name)
            entered.add(target)
        yield from ((here / name).relative_to(root) for name in files if not name.startswith("."))


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _is_item(root: Path, file: Path, kind: Kind, left_out: LeftOut) -> bool:
    suffix = file.suffix.lower()
    if suffix in kind.suffixes:
        if (root / file).is_file():
            return True
        reason = "no plain file" if (root / file).exists() else "a link to nothing"
    elif suffix in PICTURES.suffixes | CLIPS.suffixes:
        reason = f"no {kind.singular}"
    elif file.name in TABLES or file.name.lower().startswith(_SILENT):
        return False
    else:
        reason = "an ending that is not read"
    left_out.setdefault(reason, []).append(file.as_posix())
    return False


def _list_rows(root: Path, tables: Sequence[Path], files: Sequence[Path], kind: Kind, prefix: str = "") -> FileListing:
    """List the rows of tables, those below a prefix; files without a row and rows without a file are left out."""
    rows: dict[str, Mapping[str, Any]] = {}
    left_out: LeftOut = {}
    for table in tables:
        for number, row in _read_table(root / table):
            where = f"'{root / table}' line {number}"
            name = _inside((table.parent / _file_name(row, where)).as_posix(), where)
            if not name.startswith(prefix):
                continue
            if not os.path.exists(root / name):  # which takes a name that is too long as none, too
                left_out.setdefault("a row without a file", []).append(name)
            elif Path(name).suffix.lower() in (PICTURES.suffixes | CLIPS.suffixes) - kind.suffixes:
                left_out.setdefault(f"a row of no {kind.singular}", []).append(name)
            elif not os.path.isfile(root / name):
                raise GenrefineError(f"{where}: '{name}' is no plain file; correct the row")
            elif name in rows:
                raise GenrefineError(f"{where}: '{name}' has a row already; join the two")
            else:
                rows[name] = row
    known = rows.keys() | {name for names in left_out.values() for name in names}
    for file in files:
        if file.as_posix() not in known and _is_item(root, file, kind, left_out):
            left_out.setdefault("a file without a row", []).append(file.as_posix())
    columns = dict.fromkeys(key for row in rows.values() for key in row if key != "file_name")
    values: dict[str, list[Any]] = {key: [row.get(key) for row in rows.values()] for key in columns}
    if len(tables) > 1 and not columns.keys() & set(LABEL_COLUMNS):  # a table in every class
        values["class_name"] = [Path(name).parent.as_posix() for name in rows]
    return FileListing(root, list(rows), values, left_out)


def _read_table(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number and the content of every row."""
    content = path.read_bytes()
    if path.suffix == ".csv":
        try:
            reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
            for cells in reader:
                # An empty cell is nothing said; cells beyond the header stand under None.
                if None in cells:
                    raise GenrefineError(f"'{path}' line {reader.line_num}: more cells than the header has names")
                yield reader.line_num, {key: value for key, value in cells.items() if value}
        except (UnicodeDecodeError, csv.Error) as error:
            raise GenrefineError(f"'{path}' is no table of comma-separated UTF-8 text ({error})") from error
        return
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            try:
                row: Any = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise GenrefineError(f"'{path}' line {number}: expected a JSON object with 'file_name'")
            yield number, row


def _file_name(row: Mapping[str, Any], where: str) -> str:
    name = row.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise GenrefineError(f"{where}: expected a row with 'file_name'; got {name!r}")
    return name


def _inside(name: str, where: str) -> str:
    """Return a name of a table in its plain form, refusing one that leads out of the folder."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
        raise GenrefineError(f"{where}: '{name}' lies outside the folder")
    plain = os.path.normpath(name).replace(os.sep, "/")
    if plain == ".." or plain.startswith("../"):
        raise GenrefineError(f"{where}: '{name}' lies outside the folder")
    return plain
