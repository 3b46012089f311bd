"""The files of a code store: written whole or not at all, checked by size and SHA-256.

    codes-00000.bin ...   items one after the other, `bytes_per_item` each; every file but the last holds `shard_items`
    labels.bin            one little-endian int32 per picture
    names.json            one name per picture
    data.json             what they were made of, see `record`; stores of version 0.1.0 have none
    index.json            what the codes are, size and SHA-256 of every other file, and its own SHA-256

The index is written last, everything goes to a temporary neighbor of the folder, and one rename makes the store appear.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from genrefine.errors import GenrefineError
from genrefine.files import appearing, one_line, read_json, sha256_of
from genrefine.hbq import HBQ, Layout

FORMAT = "genrefine code store"
VERSION = 1
DATA = "data.json"
LARGEST_COUNT = 2**48


@dataclass(frozen=True)
class StoredFile:
    """Name, length in bytes and SHA-256 of one file."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class StoreIndex:
    """Say what a store holds.

    Args:
        tokenizer_fingerprint: names the tokenizer that made the codes.
        rounds, layout: its HBQ.
        code_shape: channels, t, h, w of one item.
        bytes_per_item: length of one packed item.
        views: items per picture: 1, or 2 where every picture is followed by its mirror image.
        class_names: name of each label.
        num_pictures: pictures in all.
        shard_items: items in each code file but the last.
        files: every file but the index; the code files first, in order.
    """

    tokenizer_fingerprint: str
    rounds: int
    layout: Layout
    code_shape: tuple[int, int, int, int]
    bytes_per_item: int
    views: int
    class_names: tuple[str, ...]
    num_pictures: int
    shard_items: int
    files: tuple[StoredFile, ...]

    def to_json(self) -> str:
        """Return the content of `index.json`."""
        content = asdict(self)
        head = {"format": FORMAT, "version": VERSION, "sha256": _digest_of_json(content)}
        return json.dumps({**head, "index": content}, indent=1)


def read_index(folder: Path) -> StoreIndex:
    """Read `index.json`.

    Raises:
        GenrefineError: it is missing, damaged, altered or of another version.
    """
    advice = "encode the pictures again"
    path = folder / "index.json"
    if not path.is_file():
        raise GenrefineError(f"'{folder}' is no code store: it has no index.json; encode a data set first")
    content = read_json(path, advice)
    if content.get("format") != FORMAT or not isinstance(content.get("index"), dict):
        raise GenrefineError(f"index.json of code store '{folder}' cannot be read; {advice}")
    if content.get("version") != VERSION:
        raise GenrefineError(
            f"code store '{folder}' must have version {VERSION}; got {content.get('version')}; {advice}"
        )
    index = content["index"]
    if content.get("sha256") != _digest_of_json(index):
        raise GenrefineError(f"index.json of code store '{folder}' was altered; {advice}")
    try:  # whoever altered it may have made the digest, too
        files = tuple(StoredFile(**file) for file in index.pop("files"))
        index["code_shape"], index["class_names"] = tuple(index["code_shape"]), tuple(index["class_names"])
        return _checked(StoreIndex(**index, files=files))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        reason = one_line(error)
        raise GenrefineError(f"index.json of code store '{folder}' makes no sense ({reason}); {advice}") from error


def _checked(index: StoreIndex) -> StoreIndex:
    """Return an index whose numbers fit each other.

    Raises:
        TypeError, ValueError: they do not.
    """
    counts = (index.rounds, *index.code_shape, index.bytes_per_item, index.views, index.shard_items, index.num_pictures)
    are_counts = all(type(count) is int and 0 < count < LARGEST_COUNT for count in counts)
    if len(index.code_shape) != 4 or not are_counts or index.views > 2:
        raise ValueError("its numbers are no counts")
    hbq = HBQ(index.rounds, index.layout)
    if index.bytes_per_item != -(-math.prod(index.code_shape) * hbq.bits_per_code // 8):
        raise ValueError("its items have another size than their codes")
    items, sizes = index.num_pictures * index.views, {}
    for file in index.files:
        if Path(file.name).name != file.name or len(file.name) > 100 or type(file.num_bytes) is not int:
            raise ValueError(f"it names the file {file.name!r}")
        sizes[file.name] = file.num_bytes
    shards = [size for name, size in sizes.items() if name.startswith("codes-")]
    full = index.shard_items * index.bytes_per_item
    num_shards = -(-items // index.shard_items)  # compared before as many sizes are written down
    ends = [min(full, items * index.bytes_per_item - start * full) for start in range(min(num_shards, len(shards)))]
    if (len(shards), shards) != (num_shards, ends) or sizes.get("labels.bin") != 4 * index.num_pictures:
        raise ValueError("its files have other sizes than its items")
    if "names.json" not in sizes:
        raise ValueError("it has no names")
    if not all(isinstance(name, str) for name in index.class_names):
        raise ValueError("its classes have no names")
    return index


def check_sizes(folder: Path, index: StoreIndex) -> None:
    """Refuse a store with a missing, truncated or grown file."""
    for file in index.files:
        path = folder / file.name
        found = path.stat().st_size if path.is_file() else 0
        if found != file.num_bytes:
            raise GenrefineError(
                f"'{path}' must have {file.num_bytes} bytes; got {found}; it is damaged, encode the pictures again"
            )


def check_hashes(folder: Path, index: StoreIndex, progress: Callable[[int, int], None] | None = None) -> None:
    """Refuse a store any byte of which has changed; reads every file."""
    total, done = sum(file.num_bytes for file in index.files), 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress is not None:
            progress(done, total)

    for file in index.files:
        if sha256_of(folder / file.name, count) != file.sha256:
            raise GenrefineError(f"'{folder / file.name}' was altered (SHA-256 differs); encode the pictures again")


@contextmanager
def new_store(folder: Path, shard_bytes: int) -> Iterator["StoreWriter"]:
    """Give a writer of a store that appears, whole, when the block ends; an error leaves nothing.

    Raises:
        GenrefineError: the folder exists and is not empty, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise GenrefineError(f"'{folder}' exists already; delete it or choose another path")
        with appearing(folder) as partial:
            writer = StoreWriter(partial, shard_bytes)
            try:
                yield writer
            finally:
                writer.close()
    except OSError as error:
        raise GenrefineError(
            f"cannot write the code store '{folder}' ({error.strerror}); choose another path"
        ) from error


class StoreWriter:
    """Write the files of a store; `finish` is the last call."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.files: list[StoredFile] = []
        self.bytes_per_item = self.shard_items = self.items_in_shard = 0
        self._stream: IO[bytes] | None = None
        self._digest = hashlib.sha256()

    def close(self) -> None:
        """Let go of the file that is being written."""
        if self._stream is not None:
            with suppress(OSError):  # on a full disk, what is still buffered cannot be written either
                self._stream.close()

    def add(self, packed: NDArray[np.uint8]) -> None:
        """Append items, one packed item a row."""
        self.bytes_per_item = packed.shape[1]
        self.shard_items = max(1, self.shard_bytes // self.bytes_per_item)
        while len(packed):
            if self._stream is None:
                self._open_shard()
            room = self.shard_items - self.items_in_shard
            self._append(packed[:room].tobytes())
            self.items_in_shard += len(packed[:room])
            packed = packed[room:]
            if self.items_in_shard == self.shard_items:
                self._close_shard()

    def finish(
        self,
        labels: Sequence[int],
        names: Sequence[str],
        *,
        tokenizer_fingerprint: str,
        rounds: int,
        layout: Layout,
        code_shape: tuple[int, int, int, int],
        views: int,
        class_names: Sequence[str],
        data: str = "",
    ) -> None:
        """Write labels, names, the record of the data and, last, the index."""
        if self._stream is not None:
            self._close_shard()
        self._write("labels.bin", np.asarray(labels, dtype="<i4").tobytes())
        self._write("names.json", json.dumps(list(names)).encode())
        if data:
            self._write(DATA, data.encode())
        index = StoreIndex(
            tokenizer_fingerprint=tokenizer_fingerprint,
            rounds=rounds,
            layout=layout,
            code_shape=code_shape,
            bytes_per_item=self.bytes_per_item,
            views=views,
            class_names=tuple(class_names),
            num_pictures=len(labels),
            shard_items=self.shard_items,
            files=tuple(self.files),
        )
        self._write("index.json", index.to_json().encode())

    def _open_shard(self) -> None:
        name = f"codes-{len(self.files):05d}.bin"
        self._stream = open(self.folder / name, "xb")  # noqa: SIM115 (closed by `_close_shard` or `__exit__`)
        self._digest, self.items_in_shard = hashlib.sha256(), 0

    def _append(self, content: bytes) -> None:
        assert self._stream is not None
        self._stream.write(content)
        self._digest.update(content)

    def _close_shard(self) -> None:
        assert self._stream is not None
        self._stream.close()
        num_bytes = self.items_in_shard * self.bytes_per_item
        self.files.append(StoredFile(Path(self._stream.name).name, num_bytes, self._digest.hexdigest()))
        self._stream = None

    def _write(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)
        self.files.append(StoredFile(name, len(content), hashlib.sha256(content).hexdigest()))


def _digest_of_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
