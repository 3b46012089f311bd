"""Changed data is noticed and named; a copy of the same data is the same data."""

import os
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from genrefine.data import ImageSource
from genrefine.data import record as module
from genrefine.data.record import DataRecord, require_same_data
from genrefine.errors import GenrefineError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for number, name in enumerate(("cats/a", "cats/b", "dogs/c")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / f"{name}.png")
    return root


def test_a_record_survives_being_written_and_sees_no_change(folder: Path) -> None:
    record = DataRecord.of(ImageSource(folder))
    assert DataRecord.from_json(record.to_json()) == record
    assert record.changes(DataRecord.of(ImageSource(folder), record)) == ""
    assert [item.class_name for item in record.items] == ["cats", "cats", "dogs"]


def test_a_copy_with_other_times_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    record = DataRecord.of(ImageSource(folder))
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.png"):
        os.utime(path, (1, 1))
    assert record.changes(DataRecord.of(ImageSource(tmp_path / "copy"), record)) == ""


def test_content_with_the_old_stamp_is_not_read_again(folder: Path, monkeypatch) -> None:
    record = DataRecord.of(ImageSource(folder))

    def refuse(encoded: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(module, "_digest_of", refuse)
    assert DataRecord.of(ImageSource(folder), record) == record


def change_content(root: Path) -> None:
    stamp = (root / "cats/a.png").stat()
    Image.new("RGB", (8, 8), "blue").save(root / "cats/a.png")
    os.utime(root / "cats/a.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_content, "1 replaced (cats/a.png)"),
        (lambda root: shutil.copy(root / "cats/a.png", root / "dogs/d.png"), "1 added (dogs/d.png)"),
        (lambda root: (root / "cats/b.png").unlink(), "1 missing (cats/b.png)"),
        (lambda root: (root / "dogs").rename(root / "birds"), "1 added (birds/c.png), 1 missing (dogs/c.png)"),
    ],
)
def test_every_change_is_named(folder: Path, change, words: str) -> None:
    record = DataRecord.of(ImageSource(folder))
    change(folder)
    assert record.changes(DataRecord.of(ImageSource(folder), record)) == words


def test_other_classes_captions_and_decoding_are_named(folder: Path) -> None:
    table = folder / "metadata.jsonl"
    table.write_text('{"file_name": "cats/a.png", "label": "x", "text": "one"}\n')
    record = DataRecord.of(ImageSource(folder, caption_column="text"))
    table.write_text('{"file_name": "cats/a.png", "label": "y", "text": "two"}\n')
    later = DataRecord.of(ImageSource(folder, caption_column="text"), record)
    assert record.changes(later) == "1 of another class (cats/a.png), 1 with other captions (cats/a.png)"
    resized = DataRecord.of(ImageSource(folder, size=4, caption_column="text"))
    assert later.changes(resized).startswith("decoded by PictureDecoder(size=4")


def test_rows_of_a_table_are_known_by_their_content(folder: Path, tmp_path: Path) -> None:
    def write(name: str, colors: list[str]) -> ImageSource:
        cells = []
        for color in colors:
            Image.new("RGB", (8, 8), color).save(tmp_path / "one.png")
            cells.append({"bytes": (tmp_path / "one.png").read_bytes(), "path": None})
        (tmp_path / name).mkdir()
        pyarrow.parquet.write_table(pyarrow.table({"image": cells}), tmp_path / name / "t.parquet")
        return ImageSource(tmp_path / name, cache_dir=tmp_path / "cache")

    record = DataRecord.of(write("first", ["red", "blue"]))
    assert record.changes(DataRecord.of(write("same", ["red", "blue"]), record)) == ""
    assert record.changes(DataRecord.of(write("other", ["red", "lime"]), record)) == "1 replaced (row 1)"


def test_beyond_the_limit_only_stamps_count(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_READ", 0)
    record = DataRecord.of(ImageSource(folder))
    assert {item.content for item in record.items} == {""}
    change_content(folder)
    assert record.changes(DataRecord.of(ImageSource(folder), record)) == "1 replaced (cats/a.png)"
    assert record.without_stamps().changes(record) == "", "nothing is known of either content"


def test_a_file_of_records_is_kept_and_compared(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run/data.json"
    path.parent.mkdir()
    require_same_data(path, [ImageSource(folder)], "do this")
    require_same_data(path, [ImageSource(folder)], "do this")
    change_content(folder)
    with pytest.raises(GenrefineError, match=r"has changed since: pictures 1 replaced \(cats/a.png\); do this"):
        require_same_data(path, [ImageSource(folder)], "do this")
    for broken in (b"[", b"[3]", b'[{"decoding": 1}]', b"[" * 100_000):
        path.write_bytes(broken)
        with pytest.raises(GenrefineError, match="cannot be read") as error:
            require_same_data(path, [ImageSource(folder)], "do this")
        assert "\n" not in str(error.value)
