"""Folders are listed whole: links, tables wherever they lie, and a reason for every file that is not used."""

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from genrefine.data import ClipSource, ImageSource
from genrefine.data.folder import CLIPS, PICTURES, list_folder, walk
from genrefine.errors import GenrefineError


def picture(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    return path


def test_everything_is_used_or_counted_with_its_reason(tmp_path: Path, caplog) -> None:
    root = tmp_path / "set"
    for name in ("cats/a.JPG", "cats/win.jfif", "dogs/big/d.png", ".hidden/x.png", "cats/.thumb.png"):
        picture(root / name)
    picture(tmp_path / "elsewhere/birds/b.png")
    (root / "birds").symlink_to(tmp_path / "elsewhere/birds")
    for name in ("cats/phone.HEIC", "cats/Thumbs.db", "film.mp4", "README.md", "LICENSE"):
        (root / name).write_bytes(b"x")
    os.mkfifo(root / "cats/pipe.png")
    (root / "cats/gone.png").symlink_to("nowhere.png")
    with caplog.at_level(logging.WARNING, logger="genrefine"):
        source = ImageSource(root)
    assert source.names == ["birds/b.png", "cats/a.JPG", "cats/win.jfif", "dogs/big/d.png"]
    assert source.class_names == ["birds", "cats", "dogs/big"]
    assert source.left_out == {
        "an ending that is not read": ["cats/Thumbs.db", "cats/phone.HEIC"],
        "a link to nothing": ["cats/gone.png"],
        "no plain file": ["cats/pipe.png"],
        "no picture": ["film.mp4"],
    }
    assert len(source) == 4
    assert [tuple(pixels.shape) for pixels, _ in source] == [(3, 1, 8, 8)] * 4
    (line,) = caplog.messages
    assert line == source.summary()
    assert "4 pictures found; left out: 2 with an ending that is not read (cats/Thumbs.db, cats/phone.HEIC)" in line


def test_a_folder_of_which_all_is_used_says_nothing(tmp_path: Path, caplog) -> None:
    picture(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING, logger="genrefine"):
        assert ImageSource(tmp_path).left_out == {}
    assert caplog.messages == []


def test_a_folder_without_items_says_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(
        GenrefineError, match=r"no pictures in .*left out: 1 with an ending that is not read \(a.heic\)"
    ):
        ImageSource(tmp_path)


def test_a_folder_that_contains_itself_is_entered_once(tmp_path: Path) -> None:
    picture(tmp_path / "a/b/x.png")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/b/self").symlink_to(".")
    (tmp_path / "twice").symlink_to("a")
    assert sorted(map(str, walk(tmp_path))) == ["a/b/x.png", "twice/b/x.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "a/x.png")
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(GenrefineError, match=r"cannot list '.*closed'"):
        list_folder(tmp_path, PICTURES, None)


def test_a_folder_that_fails_while_it_is_listed_is_an_error(tmp_path: Path, monkeypatch) -> None:
    picture(tmp_path / "a/x.png")
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(GenrefineError, match=r"cannot list '.*closed' \(Permission denied\)"):
        list_folder(tmp_path, PICTURES, None)


def test_a_snapshot_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots/abc"
    snapshot.mkdir(parents=True)
    picture(tmp_path / "blobs/p.png").rename(tmp_path / "blobs/h0")
    (tmp_path / "blobs/m").write_text('{"file_name": "0.png", "text": "t"}\n')
    (snapshot / "0.png").symlink_to("../../blobs/h0")
    (snapshot / "metadata.jsonl").symlink_to("../../blobs/m")
    source = ImageSource(snapshot, caption_column="text")
    assert (source.names, source.captions, tuple(source[0][0].shape)) == (["0.png"], [("t",)], (3, 1, 8, 8))


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "C:\\\\x.png", "..", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "set"
    picture(root / "a.png")
    picture(tmp_path / "x.png")
    (root / "metadata.jsonl").write_text(f'{{"file_name": "{name}"}}\n')
    with pytest.raises(GenrefineError, match=r"line 1: .*(outside|'file_name')"):
        ImageSource(root)


def test_a_table_above_the_splits_serves_each_of_them(tmp_path: Path) -> None:
    for name in ("train/0.png", "train/1.png", "test/9.png", "train/loose.png"):
        picture(tmp_path / name)
    rows = [("train/0.png", "k"), ("train/1.png", "k"), ("test/9.png", "m"), ("test/8.png", "m")]
    table = "".join(f'{{"file_name": "{name}", "label": "{label}", "text": "t"}}\n' for name, label in rows)
    (tmp_path / "metadata.jsonl").write_text(table)
    train = ImageSource(tmp_path, split="train")
    assert (train.names, train.class_names) == (["train/0.png", "train/1.png"], ["k"])
    assert train.left_out == {"a file without a row": ["train/loose.png"]}
    test = ImageSource(tmp_path, split="test")
    assert (test.names, test.class_names) == (["test/9.png"], ["m"])
    assert test.left_out == {"a row without a file": ["test/8.png"]}
    assert len(ImageSource(tmp_path)) == 3
    with pytest.raises(GenrefineError, match="no split 'dev'"):
        ImageSource(tmp_path, split="dev")


def test_a_table_in_every_class_names_the_classes(tmp_path: Path) -> None:
    for name in ("cats/a.png", "dogs/b.png"):
        picture(tmp_path / name)
    (tmp_path / "cats/metadata.csv").write_text('\ufefffile_name,text\na.png,"a cat, asleep"\n', encoding="utf-8")
    (tmp_path / "dogs/metadata.jsonl").write_text('{"file_name": "b.png", "text": "a dog"}\n')
    source = ImageSource(tmp_path, caption_column="text")
    assert source.names == ["cats/a.png", "dogs/b.png"]
    assert source.captions == [("a cat, asleep",), ("a dog",)]
    assert source.class_names == ["cats", "dogs"]


def test_one_table_may_be_of_stills_and_clips(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "2.apng", "PNG", save_all=True, append_images=frames[1:])
    table = '{"file_name": "1.png", "text": "t"}\n{"file_name": "2.apng", "text": "u"}\n'
    (tmp_path / "metadata.jsonl").write_text(table)
    stills = ImageSource(tmp_path, caption_column="text")
    assert (stills.names, stills.captions) == (["1.png"], [("t",)])
    assert stills.left_out == {"a row of no picture": ["2.apng"]}
    clips = ClipSource(tmp_path, num_frames=3, size=8, caption_column="text")
    assert (clips.names, clips.captions) == (["2.apng"], [("u",)])
    assert clips.left_out == {"a row of no clip": ["1.png"]}
    assert list_folder(tmp_path, CLIPS, None).names == ["2.apng"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", b"[" * 100_000, "line 1: expected a JSON object"),
        ("metadata.jsonl", b'["a.png"]', "line 1: expected a JSON object"),
        ("metadata.jsonl", b'{"file_name": 3}', "got 3"),
        ("metadata.jsonl", b'{"file_name": "a.png"}\n{"file_name": "./a.png"}', "line 2: 'a.png' has a row already"),
        ("metadata.jsonl", b'{"file_name": "folder"}', "is no plain file"),
        ("metadata.csv", b"file_name,text\na.png,one,two\n", "line 2: more cells"),
        ("metadata.csv", b"name,text\na.png,one\n", "expected a row with 'file_name'; got None"),
        ("metadata.csv", b"file_name\n\xff\n", "no table of comma-separated UTF-8 text"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GenrefineError, match=message) as error:
        ImageSource(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('" "', r"picture 'a.png' of .* must have a caption or a list of them in 'text'; got ' '"),
        ('"\\u200b\\ufeff\\u00a0"', "must have a caption"),
        ('["", " "]', "must have a caption"),
        ('"a \\u0007 bell"', r"caption of picture 'a.png' of '.*': a prompt must be .* U\+0007 at position 2"),
    ],
)
def test_a_caption_that_says_nothing_or_cannot_be_read_names_its_row(tmp_path: Path, text: str, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "text": {text}}}\n')
    with pytest.raises(GenrefineError, match=message):
        ImageSource(tmp_path, caption_column="text")


def test_of_several_captions_those_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    family = "\U0001f468\u200d\U0001f469"  # joined by a character without width
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "text": ["", "one", "\u200b", "{family}"]}}\n')
    assert ImageSource(tmp_path, caption_column="text").captions == [("one", family)]
