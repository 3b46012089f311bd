"""What pictures and clips have in common: rows chosen, classes numbered, captions collected, broken ones left out.

A source is a map-style torch data set of `(pixels, label)`: pixels `3 frames height width` in [-1, 1], label a class
number. Class names are sorted, so that the same files give the same numbers on every machine; to read another split
with the numbers of a trained model, pass that model's `class_names`. Sources are read and never changed.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from genrefine.conditioning.text_encoder import readable_prompt, says_nothing
from genrefine.data.folder import LABEL_COLUMNS, Kind
from genrefine.data.listing import Listing, list_items
from genrefine.errors import GenrefineError, some_of

logger = logging.getLogger(__name__)

Values = str | Sequence[str]
SourceKind = TypeVar("SourceKind", bound="Source")


class Source(Dataset[tuple[Tensor, int]], ABC):
    """Read pictures or clips with their classes and captions.

    Args:
        path: see `list_items`.
        kind: what is read.
        item_column: column of a table that holds the items.
        split: split of a table or subfolder of a folder; see `list_items`.
        label_column: column that holds the class; by default `class_name` or `label`. Without any, all items are of one
            class.
        caption_column: column or columns that hold captions: one string or a list of strings per item.
        keep, drop: columns and the values whose items are taken or left out, `keep={"style": ["noto", "fluent"]}`; the
            empty string is a value too: `keep={"skin_tone": ""}` takes the items without one.
        class_names: names of the classes in the order of their numbers; by default those that occur, sorted.
        on_error: "raise" stops at an item that cannot be read and names it; "skip" decodes every item once on opening,
            leaves out those that cannot be read, logs them and lists them with reasons in `skipped`.
        cache_dir: where `datasets` keeps its memory-mapped copy of a table.
        progress: called with (items checked, items in all) while "skip" decodes.

    Raises:
        GenrefineError: nothing there, no item left, an unknown split, column or class, or an item without a caption.
    """

    decoder: Any

    def __init__(
        self,
        path: str | Path,
        kind: Kind,
        item_column: str,
        *,
        split: str | None,
        label_column: str | None,
        caption_column: Values | None,
        keep: Mapping[str, Values] | None,
        drop: Mapping[str, Values] | None,
        class_names: Sequence[str] | None,
        on_error: str,
        cache_dir: str | Path | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise GenrefineError(f"on_error must be 'raise' or 'skip'; got '{on_error}'")
        self.path, self.kind = str(path), kind
        self.skipped: dict[str, str] = {}
        self._listing = list_items(path, kind, split, item_column, cache_dir)
        if not len(self._listing.names):
            raise GenrefineError(
                f"no {kind.plural} in '{path}'; give a folder or data set with at least one{_but(self.left_out)}"
            )
        if self.left_out:
            logger.warning("%s", self.summary())
        self._rows = _choose_rows(self._listing, keep or {}, drop or {}, kind)
        if not self._rows:
            raise GenrefineError(f"keep and drop leave none of {len(self._listing.names)} {kind.plural} in '{path}'")
        # Before anything is decoded: a wrong column is found at once.
        captions = [_column(self._listing, name) for name in _names(caption_column)]
        if on_error == "skip":
            self._skip_unreadable(progress)
        classes = _classes(self._listing, label_column, self._rows, f"{kind.singular} '{{}}' of '{self.path}'")
        self.class_names = _number_classes(classes, class_names, kind)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        self.labels = [numbers[name] for name in classes]
        self.names = [self._listing.names[row] for row in self._rows]
        self.captions = self._captions(captions, caption_column)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 frames height width"], int]:
        """Return the pixels and the class number of one item.

        Raises:
            GenrefineError: the item cannot be read.
        """
        return self._decode(self.encoded(index), self.names[index]), self.labels[index]

    def column(self, name: str) -> list[Any]:
        """Return one further column (style, tags...), one value per item of this source."""
        values = _column(self._listing, name)
        return [values[row] for row in self._rows]

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Return the names of what was found and is not used, by reason."""
        return self._listing.left_out

    def summary(self) -> str:
        """Say in one line what is used, and what is left out and why, with the first names."""
        used = len(self._listing.names)
        what = self.kind.singular if used == 1 else self.kind.plural
        return f"'{self.path}': {used} {what} found{_but(self.left_out)}"

    def subset(self: SourceKind, indices: Sequence[int]) -> SourceKind:
        """Return the source of these items alone, in this order; class numbers stay as they are."""
        part = copy(self)
        part._rows = [self._rows[index] for index in indices]
        part.labels = [self.labels[index] for index in indices]
        part.names = [self.names[index] for index in indices]
        part.captions = [self.captions[index] for index in indices] if self.captions else []
        return part

    def name_of(self, index: int) -> str:
        """Return the name of one item."""
        return self.names[index]

    def encoded(self, index: int) -> Path | bytes:
        """Return one item as it is stored: its path, or its bytes."""
        return self._listing.read(self._rows[index])

    def stamp(self, index: int) -> str:
        """Return what changes when an item is written anew; empty if nothing is known."""
        return self._listing.stamp(self._rows[index])

    @abstractmethod
    def _decode(self, encoded: Path | bytes, name: str) -> Float[Tensor, "3 frames height width"]:
        """Turn an encoded item into pixels."""

    def _captions(self, columns: Sequence[Sequence[Any]], names: Values | None) -> list[tuple[str, ...]]:
        found = []
        for row in self._rows if columns else ():
            cells = [column[row] for column in columns]
            lists = [cell if isinstance(cell, list | tuple) else [cell] for cell in cells if cell is not None]
            texts = [text for cell in lists for text in cell]
            is_text = all(isinstance(text, str) for text in texts)
            texts = [text for text in texts if not is_text or not says_nothing(text)]
            if not is_text or not texts:
                where = ", ".join(f"'{name}'" for name in _names(names))
                raise GenrefineError(
                    f"{self.kind.singular} '{self._listing.names[row]}' of '{self.path}' must have a caption or a list "
                    f"of them in {where}; got {cells[0]!r}; choose another column or drop the row"
                )
            for text in texts:  # now, not after all pictures were encoded
                try:
                    readable_prompt(text)
                except GenrefineError as error:
                    name = self._listing.names[row]
                    raise GenrefineError(
                        f"caption of {self.kind.singular} '{name}' of '{self.path}': {error}"
                    ) from None
            found.append(tuple(dict.fromkeys(texts)))
        return found

    def _skip_unreadable(self, progress: Callable[[int, int], None] | None) -> None:
        readable, what = [], self.kind.plural
        for done, row in enumerate(self._rows, start=1):
            try:
                self._decode(self._listing.read(row), self._listing.names[row])
                readable.append(row)
            except GenrefineError as error:
                self.skipped[self._listing.names[row]] = str(error)
            if progress is not None:
                progress(done, len(self._rows))
        if self.skipped:
            names = some_of(list(self.skipped))  # each with its reason: `skipped`
            logger.warning("skipped %d of %d unreadable %s: %s", len(self.skipped), len(self._rows), what, names)
        if not readable:
            raise GenrefineError(f"none of {len(self._rows)} {what} in '{self.path}' can be read; check the files")
        self._rows = readable


def _but(left_out: Mapping[str, Sequence[str]]) -> str:
    """Say what is left out, or nothing."""
    parts = [
        f"{len(names)} {'with' if reason.startswith('an ending') else 'as'} {reason} ({some_of(names)})"
        for reason, names in left_out.items()
    ]
    return f"; left out: {'; '.join(parts)}" if parts else ""


def _names(columns: Values | None) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns or ())


def _column(listing: Listing, name: str) -> Sequence[Any]:
    if name not in listing.columns:
        raise GenrefineError(f"no column '{name}'; the data set has {', '.join(listing.columns) or 'none'}")
    return listing.column(name)


def _choose_rows(listing: Listing, keep: Mapping[str, Values], drop: Mapping[str, Values], kind: Kind) -> list[int]:
    chosen = [True] * len(listing.names)
    for filters, wanted in ((keep, True), (drop, False)):
        for name, values in filters.items():
            allowed = {values} if isinstance(values, str) else set(values)
            column = ["" if value is None else str(value) for value in _column(listing, name)]
            if absent := allowed.difference(column):
                quoted = " or ".join(map(repr, sorted(absent)))
                logger.warning("no %s has %s in column '%s'", kind.singular, quoted, name)
            chosen = [c and (value in allowed) == wanted for c, value in zip(chosen, column, strict=True)]
    return [row for row, c in enumerate(chosen) if c]


def _classes(listing: Listing, label_column: str | None, rows: Sequence[int], which: str) -> list[Any]:
    column = label_column or next((name for name in LABEL_COLUMNS if name in listing.columns), None)
    if column is None:
        return ["all"] * len(rows)
    values = _column(listing, column)
    for row in rows:
        if not isinstance(values[row], str | int):
            name = which.format(listing.names[row])
            raise GenrefineError(f"{name} has no class in column '{column}'; got {values[row]!r}")
    return [values[row] for row in rows]


def _number_classes(classes: list[Any], class_names: Sequence[str] | None, kind: Kind) -> list[str]:
    """Turn class values to names in place and return the names in the order of their numbers."""
    numeric = all(isinstance(value, int) for value in classes)
    found = [str(value) for value in (sorted(set(classes)) if numeric else sorted(set(map(str, classes))))]
    classes[:] = [str(value) for value in classes]
    if class_names is None:
        return found
    if unknown := sorted(set(found) - set(class_names)):
        raise GenrefineError(
            f"class_names lacks {some_of(list(map(repr, unknown)))}; add the class or drop its {kind.plural}"
        )
    return list(class_names)
