"""A file or a folder is written whole or not at all."""

import os
from pathlib import Path

import pytest

from genrefine.files import appearing, replacing, sha256_of


def fail_after_writing(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError


def test_a_replaced_file_is_whole_or_the_old_one(tmp_path: Path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        fail_after_writing(temporary)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    folder = tmp_path / "made"
    with pytest.raises(RuntimeError), appearing(folder) as temporary:
        fail_after_writing(temporary / "a")
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()  # an empty one may be there
    with appearing(folder) as temporary:
        (temporary / "b").mkdir()
        (temporary / "b" / "a").write_text("whole")
        assert list(folder.iterdir()) == []
    assert (folder / "b" / "a").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_holds_files_stays(tmp_path: Path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "kept").write_text("kept")
    with pytest.raises(OSError), appearing(tmp_path / "made") as temporary:
        (temporary / "a").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "kept"]


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch):
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    with appearing(tmp_path / "made") as temporary:
        (temporary / "a").write_text("a")
        (temporary / "b").write_text("b")
    assert calls == ["fsync", "fsync", "replace"]


def test_the_hash_is_that_of_the_content(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    seen: list[int] = []
    assert sha256_of(tmp_path / "a", seen.append).startswith("ba7816bf")
    assert seen == [3]
