"""Laws of `genrefine encode`."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from genrefine import VisualTokenizer
from genrefine.data import ClipSource, CodeStore, ImageSource


def test_a_store_holds_the_codes_of_every_picture_and_its_mirror_image(genrefine, model, pictures):
    answer = genrefine("encode", pictures / "train", "--model", model, "-o", "store")
    assert (answer.code, answer.err) == (0, "")
    assert "8 pictures in 2 classes, 16 items" in answer.out
    tokenizer = VisualTokenizer.from_pretrained(model / "visual_tokenizer")
    store = CodeStore.open("store", tokenizer.fingerprint())
    source = ImageSource(pictures / "train")
    for index in range(8):
        pixels, label = source[index]
        for view, flipped in enumerate((pixels, pixels.flip(-1))):
            codes, stored_label = store[2 * index + view]
            assert torch.equal(codes, tokenizer.encode(flipped[None])[0])
            assert stored_label == label


def test_options_choose_pictures_and_their_size(genrefine, model, pictures):
    words = ["--split", "test", "--keep", "class_name=food/fluent", "--no-flips", "--size", 8]
    assert genrefine("encode", pictures, "--model", model, "-o", "store", *words).code == 0
    store = CodeStore.open("store")
    assert len(store) == 4
    assert store[0][0].shape == (4, 1, 2, 2)
    assert list(store.class_names) == ["food/fluent"]


def test_unreadable_files_stop_or_are_named_and_left_out(genrefine, model, pictures, tmp_path):
    shutil.copytree(pictures / "train", tmp_path / "set")
    (tmp_path / "set" / "food" / "bad.png").write_text("no picture")
    answer = genrefine("encode", "set", "--model", model, "-o", "store")
    assert answer.code == 2
    assert "bad.png" in answer.err
    assert answer.err.count("\n") == 1
    answer = genrefine("encode", "set", "--model", model, "-o", "store", "--skip-unreadable")
    assert answer.code == 0
    assert answer.err.startswith("skipped: ")
    assert "bad.png" in answer.err
    assert "8 pictures" in answer.out


def write_film(path: Path, num_frames: int, kind: str = "WEBP") -> None:
    frames = [Image.new("RGB", (16, 16), (30 * n, 0, 200)) for n in range(num_frames)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=100)


def test_a_store_holds_the_codes_of_every_clip(genrefine, model, tmp_path):
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films" / "a.webp", 7)
    write_film(tmp_path / "films" / "b.gif", 5, "GIF")
    answer = genrefine("encode", "films", "--frames", 5, "--model", model, "-o", "store", "--no-flips")
    assert (answer.code, answer.err) == (0, "")
    assert "2 clips in 1 classes, 2 items" in answer.out
    tokenizer = VisualTokenizer.from_pretrained(model / "visual_tokenizer")
    store, source = CodeStore.open("store"), ClipSource("films", num_frames=5, size=None)
    assert store.names == ["a.webp", "b.gif"]
    for index in range(2):
        assert torch.equal(store[index][0], tokenizer.encode(source[index][0][None])[0])
    answer = genrefine("encode", "films", "--frames", 7, "--model", model, "-o", "more", "--skip-unreadable")
    assert answer.code == 0
    assert answer.err == (
        "skipped: clip 'b.gif' must have 7 frames; got 5; leave it out or choose fewer frames or short='hold'\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["empty"], "no pictures in 'empty'"),
        (["nowhere/at/all"], "nowhere/at/all"),
        (["set", "--size", "10"], "multiple of 4"),
        (["set", "--size", "0"], "at least 1; got 0"),
        (["set", "--keep", "class_name"], "--keep takes NAME=VALUE; got 'class_name'"),
        (["set", "--keep", "style=noto"], "no column 'style'"),
        (["set", "--split", "nowhere"], "no split 'nowhere'"),
        (["set", "--model", "nowhere"], "no model at 'nowhere'"),
        (["set", "-o", "file/store"], "cannot write"),
        (["set", "-o", "set"], "set"),
        (["films", "--frames", "5"], "clip 'a.webp' must have 5 frames; got 3"),
        (["films", "--frames", "3", "--frames-per-second", "0"], "frames_per_second must be more than 0"),
        (["set", "--frames", "3"], "no clips in 'set'"),
        (["set", "--frames", "0"], "at least 1; got 0"),
        (["set", "--short", "hold"], "--short is for clips; give --frames too"),
        (["set", "--background", "colorless"], "background must be a color"),
    ],
)
def test_wrong_requests_end_in_one_line_and_code_2(genrefine, model, pictures, tmp_path, words, message):
    shutil.copytree(pictures, tmp_path / "set")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films" / "a.webp", 3)
    answer = genrefine("encode", "-o", "store", "--model", model, *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert not list(Path("store").glob("*"))
