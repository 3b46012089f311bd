"""Find the pictures or clips of a data set without decoding them: folders (`folder`), tables, tar shards.

A `Listing` has one `name` per item, `columns` of further values (labels, styles, captions...) and `read(i)`, the
encoded item. Tables are parquet files, what `datasets` saved, data sets of the Hub, and webdataset shards: `.tar` files
in which neighbors of one name make one item (`0001.jpg`, `0001.txt`, `0001.json`). A field of a nested column has a
dotted name, `json.caption`.
"""

import hashlib
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from genrefine.data.folder import Kind, LeftOut, list_folder, walk
from genrefine.errors import GenrefineError


@runtime_checkable
class Listing(Protocol):
    """Pictures or clips that can be read one by one."""

    @property
    def left_out(self) -> LeftOut:
        """Return what was found and is not used, by reason."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Return one name per item."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """Return the names of the columns beside the item."""
        ...

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of one column, class numbers turned into class names."""
        ...

    def read(self, index: int) -> Path | bytes:
        """Return one encoded item."""
        ...

    def stamp(self, index: int) -> str:
        """Return what changes when an item is written anew; empty if nothing is known."""
        ...


@dataclass(frozen=True)
class TableListing:
    """Rows of a `datasets.Dataset`; items stay on disk, memory-mapped.

    Args:
        table: all columns but that of the items.
        items: the items' column alone.
        item_column: its name.
        names: one per row.
        written: what changes when one of the files of the table is written anew; empty if that is not known.
    """

    table: Any
    items: Any
    item_column: str
    names: Sequence[str]
    written: str = ""
    left_out: LeftOut = field(default_factory=dict)

    @property
    def columns(self) -> Sequence[str]:
        """Return the names of the columns beside the item, fields of nested ones with dotted names."""
        found: list[str] = []
        for name, feature in self.table.features.items():
            found += [f"{name}.{field}" for field in feature] if isinstance(feature, dict) else [name]
        return found

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of one column, class numbers turned into class names."""
        if name not in self.table.features:
            outer, _, field = name.partition(".")
            return [None if cell is None else cell[field] for cell in self.table[outer][:]]
        feature, values = self.table.features[name], self.table[name][:]
        if not hasattr(feature, "int2str"):
            return list(values)
        return [None if value in (None, -1) else feature.int2str(value) for value in values]

    def read(self, index: int) -> Path | bytes:
        """Return the bytes of one item, or its path where the table holds paths."""
        cell = self.items[index][self.item_column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            return b""
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])

    def stamp(self, index: int) -> str:
        """Return what changes when one of the files of the table is written anew."""
        return self.written


def list_items(
    path: str | Path, kind: Kind, split: str | None, item_column: str, cache_dir: str | Path | None = None
) -> Listing:
    """List the pictures or clips of a folder, a parquet file, tar shards or a Hugging Face data set.

    Args:
        path: a folder, a parquet or tar file, or a data set's name on the Hub.
        kind: what to look for.
        split: split of a table, or subfolder of a folder of files; by default a table's only split or "train", and the
            whole of a folder of files.
        item_column: column of a table that holds the items. Tar shards without it: the first that holds such files.
        cache_dir: where `datasets` keeps its memory-mapped copy of a table.

    Raises:
        GenrefineError: there is nothing there, or it holds no such items.
    """
    place = Path(path)
    if place.is_file() and place.suffix not in (".parquet", ".tar"):
        raise GenrefineError(f"data must be a folder, a parquet file, tar shards or a data set's name; got '{path}'")
    if place.is_dir() and not _holds_table(place, kind):
        return list_folder(place, kind, split)
    shards = _shards_by_field(place, kind)
    tables = [_load_table(path, kind, split, cache_dir, shards[field]) for field in shards] or [
        _load_table(path, kind, split, cache_dir)
    ]
    fields = [_item_field(table, kind, item_column) for table in tables]
    # `datasets` reads the fields of the first shard from all: shards of .jpg and of .png are read apart, then joined.
    renamed = [
        table if field == fields[0] else table.rename_column(field, fields[0])
        for table, field in zip(tables, fields, strict=True)
    ]
    joined = renamed[0] if len(renamed) == 1 else _datasets().concatenate_datasets(renamed)
    return _list_table(joined, kind, fields[0], str(path))


def _item_field(table: Any, kind: Kind, item_column: str) -> str:
    """Return the column of the items: as asked, or in tar shards the first that holds such files."""
    if item_column in table.column_names or "__key__" not in table.column_names:
        return item_column
    fields = [name for name in table.column_names if f".{name.rsplit('.')[-1].lower()}" in kind.suffixes]
    return fields[0] if fields else item_column


def _shards_by_field(place: Path, kind: Kind) -> dict[str, list[str]]:
    """Return the tar shards of a folder by the ending of their items; nothing where all have the same."""
    found: dict[str, list[str]] = {}
    if place.is_dir() and not (place / "state.json").is_file() and not (place / "dataset_dict.json").is_file():
        for shard in sorted(file for file in walk(place) if file.suffix.lower() == ".tar"):
            found.setdefault(_first_ending(place / shard, kind), []).append(str(place / shard))
    return found if len(found) > 1 else {}


def _first_ending(shard: Path, kind: Kind) -> str:
    """Return the ending of the first item in a tar file."""
    try:
        with tarfile.open(shard) as members:
            endings = (Path(member.name).suffix.lower() for member in members)
            return next((ending for ending in endings if ending in kind.suffixes), "")
    except (tarfile.TarError, OSError) as error:
        raise GenrefineError(f"'{shard}' is no tar file that can be read ({error}); fetch it again") from error


def _holds_table(folder: Path, kind: Kind) -> bool:
    saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
    if saved:
        return True
    endings = {file.suffix.lower() for file in walk(folder)}
    # An archive among loose files is no shard.
    return ".parquet" in endings or (".tar" in endings and not endings & kind.suffixes)


def _load_table(
    path: str | Path, kind: Kind, split: str | None, cache_dir: str | Path | None, shards: Sequence[str] = ()
) -> Any:
    datasets, place, cache = _datasets(), Path(path), None if cache_dir is None else str(cache_dir)
    try:
        if (place / "state.json").is_file() or (place / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(place))
        elif shards:
            loaded = datasets.load_dataset("webdataset", data_files={split or "train": list(shards)}, cache_dir=cache)
        elif place.is_file():
            builder = "parquet" if place.suffix == ".parquet" else "webdataset"
            loaded = datasets.load_dataset(builder, data_files=str(place), cache_dir=cache)
        else:
            # Files named one by one count into the key of the cache; found through a README, changed ones go unnoticed.
            found = (
                datasets.load_dataset_builder(str(path), cache_dir=cache).config.data_files if place.is_dir() else {}
            )
            files = {part: list(listed) for part, listed in (found or {}).items()}
            loaded = datasets.load_dataset(str(path), data_files=files or None, cache_dir=cache)
    except Exception as error:  # readers, the Hub and the network each have their own exceptions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise GenrefineError(
            f"cannot load the data set '{path}' ({reason}); give a folder of {kind.plural}, parquet files, tar "
            "shards or a Hub name"
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return loaded
    splits = list(loaded)
    chosen = split or (splits[0] if len(splits) == 1 else "train")
    if chosen not in splits:
        raise GenrefineError(f"no split '{chosen}' in '{path}'; it has {', '.join(splits)}")
    return loaded[chosen]


def _datasets() -> Any:
    """Import `datasets` where a table needs it: it takes seconds, and an image folder does without."""
    return import_module("datasets")  # by name: type checkers would find the repository's folder of this name


def _list_table(table: Any, kind: Kind, item_column: str, path: str) -> TableListing:
    if item_column not in table.column_names:
        raise GenrefineError(f"no column '{item_column}' in '{path}'; it has {', '.join(table.column_names)}")
    items = table.select_columns(item_column)
    try:
        if getattr(items.features[item_column], "_type", "") != "Video":  # its cells are those of a picture
            items = items.cast_column(item_column, _datasets().Image(decode=False))
        else:
            items = items.cast_column(item_column, _datasets().Video(decode=False))
    except Exception as error:
        raise GenrefineError(f"column '{item_column}' of '{path}' holds no {kind.plural}; choose another") from error
    names: list[str] = []
    for batch in items.with_format("arrow").iter(1000):
        for path_of_cell in batch[item_column].combine_chunks().field("path").to_pylist():
            names.append(path_of_cell or f"row {len(names)}")
    return TableListing(table.remove_columns(item_column), items, item_column, names, _written(Path(path)))


def _written(place: Path) -> str:
    """Return a digest of names, sizes and times of the files of a table; nothing for one that is not here."""
    files = [place] if place.is_file() else sorted(place / file for file in walk(place)) if place.is_dir() else []
    stamps = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return hashlib.blake2b("\n".join(stamps).encode(), digest_size=8).hexdigest() if stamps else ""
