"""What a run or a code store was made of, to notice when pictures have changed since.

A record names every item with its class, a digest of its captions, a stamp (size and time of a file) and a digest of
its encoded content. Where a stamp is as before the content is not read again; where it is not, the content decides, so
a copied data set is the same data set. Beyond `MOST_READ` bytes of content only stamps are kept.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from genrefine.data.source import Source
from genrefine.errors import GenrefineError
from genrefine.files import write_atomically

MOST_READ = 4_000_000_000
_SHOWN = 3


@dataclass(frozen=True)
class ItemRecord:
    """One picture or clip.

    Args:
        name: of the item.
        class_name: of its class.
        captions: digest of its captions; empty without any.
        stamp: what changes when a file is written; empty if nothing is known.
        content: digest of its encoded bytes; empty where they were not read.
    """

    name: str
    class_name: str
    captions: str
    stamp: str
    content: str

    def is_as(self, other: "ItemRecord") -> bool:
        """Say whether both have the same content, as far as that is known."""
        if self.content and other.content:
            return self.content == other.content
        return not (self.stamp and other.stamp) or self.stamp == other.stamp


@dataclass(frozen=True)
class DataRecord:
    """All items of a source, and how they are decoded.

    Args:
        decoding: settings of the decoder.
        items: in the order of the source.
    """

    decoding: str
    items: tuple[ItemRecord, ...]

    @classmethod
    def of(cls, source: Source, known: "DataRecord | None" = None) -> "DataRecord":
        """Record a source.

        Args:
            source: pictures or clips.
            known: an earlier record; contents whose stamps are as there are not read again.
        """
        before = {} if known is None else {item.name: item for item in known.items}
        items, num_bytes = [], 0
        for index, name in enumerate(source.names):
            stamp, old = source.stamp(index), before.get(name)
            if old is not None and stamp and old.stamp == stamp:
                content = old.content
            elif num_bytes < MOST_READ:
                content, length = _digest_of(source.encoded(index))
                num_bytes += length
            else:
                content = ""
            captions = _digest(json.dumps(source.captions[index]).encode()) if source.captions else ""
            items.append(ItemRecord(name, source.class_names[source.labels[index]], captions, stamp, content))
        return cls(repr(source.decoder), tuple(items))

    def changes(self, later: "DataRecord") -> str:
        """Say in words what is different in a later record; nothing if it is the same data."""
        own, theirs = _by_name(self.items), _by_name(later.items)
        both = [name for name in own if name in theirs]
        found = {
            "added": [name for name in theirs if name not in own],
            "missing": [name for name in own if name not in theirs],
            "replaced": [name for name in both if not own[name].is_as(theirs[name])],
            "of another class": [name for name in both if own[name].class_name != theirs[name].class_name],
            "with other captions": [name for name in both if own[name].captions != theirs[name].captions],
        }
        parts = [
            f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for what, names in found.items()
            if names
        ]
        if not parts and list(own) != list(theirs):
            parts.append("in another order")
        if self.decoding != later.decoding:
            parts.append(f"decoded by {later.decoding} instead of {self.decoding}")
        return ", ".join(parts)

    def without_stamps(self) -> "DataRecord":
        """Return what is the same for equal data, whenever and wherever its files were written."""
        return DataRecord(self.decoding, tuple(replace(item, stamp="") for item in self.items))

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(
            {"decoding": self.decoding, "items": [list(asdict(item).values()) for item in self.items]}, indent=0
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "DataRecord":
        """Read a record.

        Raises:
            ValueError: the text is no record.
        """
        try:
            values = json.loads(text)
            return cls(values["decoding"], tuple(ItemRecord(*map(str, item)) for item in values["items"]))
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(str(error)) from error


def require_same_data(path: Path, sources: Sequence[Source], advice: str) -> None:
    """Refuse data that has changed since a record was kept; keep one where there is none.

    Args:
        path: file of the records.
        sources: what a run reads.
        advice: what to do about a change.

    Raises:
        GenrefineError: says what changed; or the file cannot be read or written.
    """
    known: list[DataRecord] = []
    if path.is_file():
        try:
            known = [DataRecord.from_json(json.dumps(one)) for one in json.loads(path.read_bytes())]
        except (ValueError, TypeError, RecursionError) as error:
            raise GenrefineError(f"'{path}' cannot be read ({error}); remove it, or {advice}") from error
    padded: list[DataRecord | None] = [*known, *[None] * (len(sources) - len(known))]
    found = [DataRecord.of(source, old) for source, old in zip(sources, padded, strict=False)]
    for source, old, new in zip(sources, padded, found, strict=False):
        if old is not None and (changed := old.changes(new)):
            raise GenrefineError(
                f"the data '{source.path}' has changed since: {source.kind.plural} {changed}; {advice}"
            )
    write_atomically(path, f"[{','.join(record.to_json() for record in found)}]\n".encode())


def _by_name(items: Iterable[ItemRecord]) -> dict[str, ItemRecord]:
    """Return the items by name; of items of one name the later ones are numbered."""
    found: dict[str, ItemRecord] = {}
    for item in items:
        name, number = item.name, 1
        while name in found:
            number += 1
            name = f"{item.name} ({number})"
        found[name] = item
    return found


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _digest_of(encoded: Path | bytes) -> tuple[str, int]:
    """Return the digest and the length of an encoded item; of a file that cannot be read, of nothing."""
    try:
        content = encoded.read_bytes() if isinstance(encoded, Path) else encoded
    except OSError:
        return "", 0
    return _digest(content), len(content)
