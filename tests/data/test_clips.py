"""Folders, tables and tar shards of films become the same clips, names, classes and captions."""

import hashlib
import io
import json
import logging
import pickle
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from films import moving_picture, numbers_of, video
from torch.utils.data import DataLoader

from genrefine.data import ClipSource, CodeStore, PixelsOnly
from genrefine.data.clip_decoding import ClipDecoder
from genrefine.errors import GenrefineError
from tiny_models import tiny_tokenizer

FILMS = {"jump/a.mp4": "jumping", "jump/b.webp": "hopping", "run/c.webm": "running", "run/d.gif": "jogging"}
SMALL = {"num_frames": 5, "size": 8}


@pytest.fixture(scope="module")
def films() -> dict[str, bytes]:
    return {
        "jump/a.mp4": video(12, 10, "mp4"),
        "jump/b.webp": moving_picture(12, "webp"),
        "run/c.webm": video(12, 10, "webm"),
        "run/d.gif": moving_picture(12, "gif"),
    }


@pytest.fixture
def folder(tmp_path: Path, films: dict[str, bytes]) -> Path:
    root = tmp_path / "films"
    for name, content in films.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "notes.txt").write_text("no film")
    return root


def write_table(path: Path, films: dict[str, bytes]) -> Path:
    columns = {
        "video": [{"bytes": content, "path": name} for name, content in films.items()],
        "class_name": [name.split("/")[0] for name in films],
        "text": list(FILMS.values()),
        "captions": [[f"someone {text}", text] for text in FILMS.values()],
    }
    pq.write_table(pa.table(columns), path)
    return path


def stacked(source: ClipSource) -> torch.Tensor:
    return torch.stack([pixels for pixels, _ in source])


def test_a_folder_gives_every_film_with_its_folder_as_class(folder: Path, films: dict[str, bytes]):
    source = ClipSource(folder, **SMALL)
    assert source.names == list(FILMS)
    assert source.class_names == ["jump", "run"]
    assert source.labels == [0, 0, 1, 1]
    assert source.captions == []
    for index, content in enumerate(films.values()):
        assert numbers_of(source.frames(index)) == [0, 1, 2, 3, 4]
        assert torch.equal(source[index][0], ClipDecoder(5, 8).pixels(content, "x"))


def test_tables_saved_data_sets_and_shards_give_what_the_folder_gives(
    folder: Path, films: dict[str, bytes], tmp_path: Path
):
    expected = stacked(ClipSource(folder, **SMALL))
    more = {**SMALL, "cache_dir": tmp_path / "cache"}
    table = ClipSource(write_table(tmp_path / "films.parquet", films), caption_column="text", **more)
    features = datasets.Features({"film": datasets.Video(), "text": datasets.Value("string")})
    rows = [
        {"film": {"bytes": content, "path": None}, "text": text}
        for content, text in zip(films.values(), FILMS.values(), strict=True)
    ]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    saved = ClipSource(tmp_path / "saved", video_column="film", caption_column="text", **more)
    for source in (table, saved):
        assert torch.equal(stacked(source), expected)
        assert source.captions == [(text,) for text in FILMS.values()]
    assert table.class_names == ["jump", "run"]
    assert saved.class_names == ["all"]


def test_tar_shards_hold_films_texts_and_json(films: dict[str, bytes], tmp_path: Path):
    (tmp_path / "shards").mkdir()
    for number, name in enumerate(["jump/a.mp4", "jump/a.mp4"]):
        with tarfile.open(tmp_path / f"shards/{number:03d}.tar", "w") as tar:
            words = {"captions": [f"film {number}", "moving"], "kind": "jump"}
            members = {"mp4": films[name], "txt": f"text {number}".encode(), "json": json.dumps(words).encode()}
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    more = {**SMALL, "cache_dir": tmp_path / "cache", "label_column": "json.kind"}
    source = ClipSource(tmp_path / "shards", caption_column=["txt", "json.captions"], **more)
    assert source.captions == [("text 0", "film 0", "moving"), ("text 1", "film 1", "moving")]
    assert source.class_names == ["jump"]
    assert [Path(name).name for name in source.names] == ["0000.mp4", "0001.mp4"]
    assert numbers_of(source.frames(1)) == [0, 1, 2, 3, 4]
    single = ClipSource(tmp_path / "shards/001.tar", caption_column="txt", **more)
    assert single.captions == [("text 1",)]


def test_captions_come_from_metadata_lists_strings_and_several_columns(folder: Path):
    rows = [{"file_name": name, "title": text, "more": [text, f"someone {text}", ""]} for name, text in FILMS.items()]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = ClipSource(folder, caption_column=("title", "more"), drop={"title": "hopping"}, **SMALL)
    assert source.captions == [(text, f"someone {text}") for text in ("jumping", "running", "jogging")]
    assert source.column("title") == ["jumping", "running", "jogging"]


def test_wrong_caption_columns_get_one_line(films: dict[str, bytes], tmp_path: Path):
    path, cache = write_table(tmp_path / "films.parquet", films), tmp_path / "cache"
    with pytest.raises(GenrefineError, match=r"no column 'caption'; the data set has class_name, text, captions$"):
        ClipSource(path, caption_column="caption", cache_dir=cache)
    with pytest.raises(GenrefineError, match=r"no column 'movie' in .* it has video, class_name"):
        ClipSource(path, video_column="movie", cache_dir=cache)
    with pytest.raises(GenrefineError, match=r"column 'captions' of .* holds no clips"):
        ClipSource(write_table(tmp_path / "b.parquet", films), video_column="captions", cache_dir=cache)


def test_broken_and_short_films_stop_or_are_left_out_and_named(folder: Path, caplog: pytest.LogCaptureFixture):
    (folder / "jump/b.webp").write_bytes(b"RIFF but no more")
    (folder / "run/c.webm").write_bytes(video(3, 10, "webm"))
    source = ClipSource(folder, **SMALL)
    with pytest.raises(GenrefineError, match=r"clip 'jump/b\.webp'"):
        source[1]
    with pytest.raises(GenrefineError, match=r"clip 'run/c\.webm' must have 5 frames; got 3"):
        source[2]
    with caplog.at_level(logging.WARNING):
        source = ClipSource(folder, on_error="skip", **SMALL)
    assert source.names == ["jump/a.mp4", "run/d.gif"]
    assert list(source.skipped) == ["jump/b.webp", "run/c.webm"]
    assert caplog.messages[2:] == ["skipped 2 of 4 unreadable clips: jump/b.webp, run/c.webm"]
    held = ClipSource(folder, on_error="skip", short="hold", **SMALL)
    assert numbers_of(held.frames(1)) == [0, 1, 2, 2, 2]


def test_nothing_is_written_into_the_source(folder: Path, films: dict[str, bytes], tmp_path: Path):
    table = write_table(tmp_path / "films.parquet", films)

    def digest() -> dict[str, tuple[str, int]]:
        files = [table, *(file for file in folder.rglob("*") if file.is_file())]
        return {str(f): (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in files}

    before = digest()
    for source in (ClipSource(folder, on_error="skip", **SMALL), ClipSource(table, cache_dir=tmp_path / "c", **SMALL)):
        stacked(source)
    assert digest() == before


def test_a_loader_stacks_clips_and_a_copy_reads_the_same(folder: Path):
    source = ClipSource(folder, **SMALL)
    pixels, labels = next(iter(DataLoader(source, batch_size=4)))
    assert pixels.shape == (4, 3, 5, 8, 8)
    assert labels.tolist() == source.labels
    assert torch.equal(pickle.loads(pickle.dumps(source))[3][0], source[3][0])
    assert next(iter(DataLoader(PixelsOnly(source), batch_size=2))).equal(pixels[:2])


def test_empty_folders_and_stills_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenrefineError, match="no clips in"):
        ClipSource(tmp_path / "empty")
    (tmp_path / "a.webp").write_bytes(moving_picture(1))
    with pytest.raises(GenrefineError, match=r"none of 1 clips in .* can be read"):
        ClipSource(tmp_path, on_error="skip")


def test_a_store_holds_the_codes_of_clips_of_a_joint_tokenizer(folder: Path, tmp_path: Path):
    # Stride 8 in space and 4 in time, the first frame alone: 9 frames are 3 latent frames.
    tokenizer = tiny_tokenizer(channel_multipliers=(1, 1, 1), temporal_downsample=(True, True), temporal_kernel=1)
    source = ClipSource(folder, num_frames=9, size=16)
    store = CodeStore.create(tmp_path / "store", tokenizer, source, batch_size=3)
    codes, labels = store.batch(range(len(store)))
    assert store.code_shape[1] == 3
    assert torch.equal(codes[0::2], tokenizer.encode(stacked(source)))
    assert torch.equal(codes[1::2], tokenizer.encode(stacked(source).flip(-1)))
    assert labels[::2].tolist() == source.labels
    assert store.names == source.names
    stills = tokenizer.encode(stacked(source)[:, :, :1])
    assert torch.equal(codes[0::2][:, :, :1], stills)  # a clip's first frame has the codes of a still
    with pytest.raises(GenrefineError, match="1 \\+ 4k"):
        CodeStore.create(tmp_path / "other", tokenizer, ClipSource(folder, num_frames=8, size=16))
