"""Folders, metadata files, parquet and Hugging Face data sets become the same pictures, names and class numbers."""

import hashlib
import io
import json
import logging
import pickle
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from genrefine.data import ImageSource, PixelsOnly
from genrefine.errors import GenrefineError

PLACES = {"cats/red.png": "red", "cats/big/lime.png": "lime", "dogs/blue.png": "blue", "dogs/white.webp": "white"}
CLASSES = {"cats/red.png": "cats", "cats/big/lime.png": "cats/big", "dogs/blue.png": "dogs", "dogs/white.webp": "dogs"}


def png(color: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for place, color in PLACES.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), color).save(root / place, lossless=True)
    (root / "notes.txt").write_text("no picture")
    return root


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    table = pa.table(
        {
            "image": [{"bytes": png(color), "path": place} for place, color in PLACES.items()],
            "class_name": list(CLASSES.values()),
            "skin_tone": ["", "dark", "", None],
            "size": [8, 8, 8, 8],
        }
    )
    pq.write_table(table, tmp_path / "some.parquet")
    return tmp_path / "some.parquet"


def colors_by_name(source: ImageSource) -> dict[str, tuple[int, ...]]:
    return {name: source.picture(i).getpixel((2, 2)) for i, name in enumerate(source.names)}


def expected_colors() -> dict[str, tuple[int, ...]]:
    return {place: Image.new("RGB", (1, 1), color).getpixel((0, 0)) for place, color in PLACES.items()}


def classes_by_name(source: ImageSource) -> dict[str, str]:
    return {name: source.class_names[label] for name, label in zip(source.names, source.labels, strict=True)}


def test_a_folder_gives_every_picture_with_its_parent_folder_as_class(folder: Path):
    source = ImageSource(folder)
    assert colors_by_name(source) == expected_colors()
    assert classes_by_name(source) == CLASSES
    assert source.class_names == ["cats", "cats/big", "dogs"]


def test_parquet_gives_what_the_folder_gives(folder: Path, parquet: Path, tmp_path: Path):
    table = ImageSource(parquet, cache_dir=tmp_path / "cache")
    assert colors_by_name(table) == expected_colors()
    assert classes_by_name(table) == CLASSES
    assert table.class_names == ImageSource(folder).class_names


def test_items_are_pixels_and_labels_that_a_loader_stacks(folder: Path):
    pixels, labels = next(iter(DataLoader(ImageSource(folder, size=4), batch_size=4)))
    assert pixels.shape == (4, 3, 1, 4, 4)
    assert labels.tolist() == ImageSource(folder).labels
    assert next(iter(DataLoader(PixelsOnly(ImageSource(folder, size=4)), batch_size=2))).equal(pixels[:2])


def test_pictures_right_in_the_folder_take_its_name_as_class(tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert ImageSource(tmp_path).class_names == [tmp_path.name]


def test_metadata_gives_names_labels_and_columns(folder: Path):
    rows = [
        {"file_name": place, "label": n % 2, "caption": f"a {color} one"}
        for n, (place, color) in enumerate(PLACES.items())
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    source = ImageSource(folder)
    assert colors_by_name(source) == expected_colors()
    assert source.labels == [0, 1, 0, 1]
    assert source.column("caption") == ["a red one", "a lime one", "a blue one", "a white one"]


def test_captions_of_a_folder_come_from_metadata(folder: Path):
    rows = [{"file_name": place, "caption": f"a {color} one"} for place, color in PLACES.items()]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = ImageSource(folder, caption_column="caption", drop={"caption": "a lime one"})
    assert source.captions == [("a red one",), ("a blue one",), ("a white one",)]
    assert ImageSource(folder).captions == []


@pytest.mark.parametrize("value", [None, "", [], ["", ""], 3, ["a", 3]])
def test_a_picture_without_a_caption_is_named(folder: Path, value: object):
    rows = [{"file_name": place, "caption": "x"} for place in PLACES]
    rows[2]["caption"] = value
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(GenrefineError, match=r"picture 'dogs/blue\.png' of .* must have a caption .* 'caption'"):
        ImageSource(folder, caption_column="caption")


def test_captions_of_tables_are_strings_or_lists_and_several_columns_join(parquet: Path, tmp_path: Path):
    table = pq.read_table(parquet).append_column("short", [list("abcd")])
    table = table.append_column("long", [[["a", "aa"], ["bb"], ["cc", "ccc"], []]])
    pq.write_table(table, parquet)
    cache = tmp_path / "cache"
    assert ImageSource(parquet, caption_column="short", cache_dir=cache).captions == [("a",), ("b",), ("c",), ("d",)]
    joined = ImageSource(parquet, caption_column=["short", "long"], cache_dir=cache)
    assert joined.captions == [("a", "aa"), ("b", "bb"), ("c", "cc", "ccc"), ("d",)]
    datasets.load_dataset("parquet", data_files=str(parquet), cache_dir=str(cache))["train"].save_to_disk(
        tmp_path / "saved"
    )
    saved = ImageSource(tmp_path / "saved", caption_column=["short", "long"])
    assert saved.captions == joined.captions


def write_shard(path: Path, items: dict[str, dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, members in items.items():
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def test_tar_shards_give_pictures_texts_and_json(tmp_path: Path):
    shards = tmp_path / "shards"
    shards.mkdir()
    colors = list(PLACES.values())
    for shard in (0, 1):
        items = {}
        for number in (2 * shard, 2 * shard + 1):
            words = json.dumps({"captions": [colors[number], "a color"], "class": number % 2}).encode()
            items[f"{number:04d}"] = {"png": png(colors[number]), "txt": colors[number].encode(), "json": words}
        write_shard(shards / f"{shard:05d}.tar", items)
    before = {path: path.read_bytes() for path in shards.iterdir()}
    source = ImageSource(shards, caption_column="txt", label_column="json.class", cache_dir=tmp_path / "cache")
    assert source.names == ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert list(colors_by_name(source).values()) == list(expected_colors().values())
    assert source.captions == [(color,) for color in colors]
    assert (source.class_names, source.labels) == (["0", "1"], [0, 1, 0, 1])
    listed = ImageSource(shards / "00001.tar", caption_column="json.captions", cache_dir=tmp_path / "cache")
    assert listed.captions == [(color, "a color") for color in colors[2:]]
    with pytest.raises(GenrefineError, match=r"no column 'caption'; .* txt, json\.captions, json\.class"):
        ImageSource(shards, caption_column="caption", cache_dir=tmp_path / "cache")
    assert {path: path.read_bytes() for path in shards.iterdir()} == before


def test_shards_of_different_endings_are_read_together(tmp_path: Path):
    def jpeg(color: str) -> bytes:
        content = io.BytesIO()
        Image.new("RGB", (8, 8), color).save(content, "JPEG", quality=100, subsampling=0)
        return content.getvalue()

    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(shards / "0.tar", {"a": {"jpg": jpeg("red"), "txt": b"one"}, "b": {"jpg": jpeg("lime"), "txt": b"two"}})
    write_shard(shards / "1.tar", {"c": {"png": png("blue"), "txt": b"three"}})
    source = ImageSource(shards, caption_column="txt", cache_dir=tmp_path / "cache")
    assert source.names == ["a.jpg", "b.jpg", "c.png"]
    assert source.captions == [("one",), ("two",), ("three",)]
    shades = [source.picture(index).getpixel((4, 4)) for index in range(3)]
    assert [max(range(3), key=shade.__getitem__) for shade in shades] == [0, 1, 2]


def test_an_archive_among_pictures_is_no_shard(folder: Path):
    write_shard(folder / "backup.tar", {"0": {"png": png("red")}})
    assert ImageSource(folder).names == sorted(PLACES)


def test_a_broken_shard_gets_one_line(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(GenrefineError, match="cannot load the data set") as error:
        ImageSource(tmp_path / "a.tar", cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ["{", "[]", '{"label": 1}', '{"file_name": 3}', '{"file_name": "../out.png"}', "\xff"])
def test_a_bad_metadata_line_is_named(folder: Path, line: str):
    (folder / "metadata.jsonl").write_bytes(b'{"file_name": "cats/red.png"}\n' + line.encode("latin-1"))
    with pytest.raises(GenrefineError, match="line 2"):
        ImageSource(folder)


def test_numeric_labels_are_ordered_as_numbers(tmp_path: Path):
    table = pa.table({"image": [{"bytes": png("red"), "path": None}] * 3, "label": [10, 2, 10]})
    pq.write_table(table, tmp_path / "n.parquet")
    source = ImageSource(tmp_path / "n.parquet", cache_dir=tmp_path / "cache")
    assert source.class_names == ["2", "10"]
    assert source.labels == [1, 0, 1]
    assert source.names == ["row 0", "row 1", "row 2"]


def test_a_saved_data_set_with_class_labels_gives_their_names(tmp_path: Path):
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["zebra", "ape"])})
    rows = {"picture": [Image.new("RGB", (4, 4), c) for c in ("red", "blue")], "kind": [0, 1]}
    saved = datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows, features=features)})
    saved.save_to_disk(tmp_path / "saved")
    source = ImageSource(tmp_path / "saved", image_column="picture", label_column="kind")
    assert source.class_names == ["ape", "zebra"]
    assert source.labels == [1, 0]
    assert source.picture(1).getpixel((0, 0)) == (0, 0, 255)


def test_splits_are_chosen_by_name_and_train_is_the_default(tmp_path: Path):
    parts, cache = tmp_path / "parts", tmp_path / "cache"
    parts.mkdir()
    for split, color in {"train": "red", "validation": "blue"}.items():
        table = pa.table({"image": [{"bytes": png(color), "path": None}]})
        pq.write_table(table, parts / f"{split}-00000-of-00001.parquet")
    assert ImageSource(parts, cache_dir=cache).picture(0).getpixel((0, 0)) == (255, 0, 0)
    assert ImageSource(parts, split="validation", cache_dir=cache).picture(0).getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(GenrefineError, match=r"no split 'dev' .* train, validation"):
        ImageSource(parts, split="dev", cache_dir=cache)


def test_a_split_of_a_folder_is_a_subfolder(folder: Path):
    assert ImageSource(folder, split="dogs").names == ["blue.png", "white.webp"]
    with pytest.raises(GenrefineError, match="no split 'birds'"):
        ImageSource(folder, split="birds")


def test_keep_and_drop_choose_by_column_value(parquet: Path, tmp_path: Path):
    def names(**filters: object) -> list[str]:
        return ImageSource(parquet, cache_dir=tmp_path / "cache", **filters).names

    everything = list(PLACES)
    assert names(keep={"skin_tone": ""}) == [everything[0], everything[2], everything[3]]
    assert names(drop={"skin_tone": "dark"}) == names(keep={"skin_tone": [""]})
    assert names(keep={"class_name": ["cats", "cats/big"]}) == everything[:2]


def test_filters_work_on_folders_too(folder: Path):
    assert ImageSource(folder, drop={"class_name": "dogs"}).class_names == ["cats", "cats/big"]


def test_a_filter_value_that_occurs_nowhere_is_reported(folder: Path, caplog: pytest.LogCaptureFixture):
    ImageSource(folder, drop={"class_name": ["dogs", "birds"]})
    assert "no picture has 'birds' in column 'class_name'" in caplog.text


def test_class_names_of_a_model_fix_the_numbers(folder: Path):
    names = ["horses", "dogs", "cats/big", "cats"]
    source = ImageSource(folder, class_names=names)
    assert source.class_names == names
    assert classes_by_name(source) == CLASSES
    with pytest.raises(GenrefineError, match="class_names lacks 'cats/big'"):
        ImageSource(folder, class_names=["dogs", "cats"])


def test_a_model_without_any_of_many_classes_is_told_in_one_short_line(tmp_path: Path):
    for number in range(40):
        (tmp_path / f"class {number:02d}").mkdir()
        (tmp_path / f"class {number:02d}" / "a.png").write_bytes(png("blue"))
    with pytest.raises(GenrefineError, match="lacks 'class 00', 'class 01', 'class 02' and 37 more; add the class"):
        ImageSource(tmp_path, class_names=["dogs"])


def test_raise_names_the_corrupt_file_when_it_is_read(folder: Path):
    (folder / "dogs/blue.png").write_bytes(png("blue")[:40])
    source = ImageSource(folder)
    with pytest.raises(GenrefineError, match=r"dogs/blue\.png"):
        [source[i] for i in range(len(source))]


def test_skip_leaves_corrupt_files_out_and_lists_them(folder: Path, caplog: pytest.LogCaptureFixture):
    (folder / "dogs/blue.png").write_bytes(png("blue")[:40])
    (folder / "cats/big/lime.png").write_bytes(b"")
    seen: list[tuple[int, int]] = []
    with caplog.at_level(logging.WARNING):
        source = ImageSource(folder, on_error="skip", progress=lambda done, total: seen.append((done, total)))
    assert source.names == ["cats/red.png", "dogs/white.webp"]
    assert source.class_names == ["cats", "dogs"]
    assert list(source.skipped) == ["cats/big/lime.png", "dogs/blue.png"]
    assert caplog.messages[1:] == ["skipped 2 of 4 unreadable pictures: cats/big/lime.png, dogs/blue.png"]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_empty_cell_of_a_table_counts_as_unreadable(tmp_path: Path):
    cells = [{"bytes": png("red"), "path": "a"}, None]
    features = datasets.Features({"image": datasets.Image()}).arrow_schema
    pq.write_table(pa.table({"image": cells}, schema=features), tmp_path / "holes.parquet")
    source = ImageSource(tmp_path / "holes.parquet", on_error="skip", cache_dir=tmp_path / "cache")
    assert list(source.skipped) == ["row 1"]
    assert source.class_names == ["all"]


def test_nothing_is_written_into_the_source(folder: Path, parquet: Path, tmp_path: Path):
    def digest() -> dict[str, str]:
        files = [*folder.rglob("*"), parquet]
        return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}

    before = digest()
    for source in (ImageSource(folder, size=4, on_error="skip"), ImageSource(parquet, cache_dir=tmp_path / "cache")):
        [source[i] for i in range(len(source))]
    assert digest() == before


def test_a_source_can_be_sent_to_workers(folder: Path, parquet: Path, tmp_path: Path):
    for source in (ImageSource(folder), ImageSource(parquet, cache_dir=tmp_path / "cache")):
        copy = pickle.loads(pickle.dumps(source))
        assert torch.equal(copy[2][0], source[2][0])
        assert copy.labels == source.labels


def test_grey_arrays_of_a_hub_style_data_set_are_read(tmp_path: Path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])})
    grey = Image.fromarray(np.full((28, 28), 51, np.uint8))
    datasets.Dataset.from_dict({"image": [grey], "label": [0]}, features=features).save_to_disk(tmp_path / "grey")
    pixels, label = ImageSource(tmp_path / "grey", size=32)[0]
    torch.testing.assert_close(pixels, torch.full((3, 1, 32, 32), -0.6))
    assert label == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error must be"),
        ({"caption_column": "captions"}, "no column 'captions'; the data set has class_name, skin_tone, size"),
        ({"caption_column": ["class_name", "text"]}, "no column 'text'; the data set has class_name"),
        ({"label_column": "colour"}, "no column 'colour'; the data set has class_name, skin_tone, size"),
        ({"image_column": "photo"}, "no column 'photo' in .* class_name"),
        ({"image_column": "size"}, "column 'size' of .* holds no pictures"),
        ({"keep": {"mood": "happy"}}, "no column 'mood'"),
        ({"keep": {"class_name": "birds"}}, "leave none of 4 pictures"),
        ({"label_column": "skin_tone"}, "'dogs/white.webp' .* has no class in column 'skin_tone'"),
    ],
)
def test_wrong_settings_get_one_line(parquet: Path, tmp_path: Path, options: dict, message: str):
    with pytest.raises(GenrefineError, match=message) as error:
        ImageSource(parquet, cache_dir=tmp_path / "cache", **options)
    assert "\n" not in str(error.value)


def test_empty_and_foreign_paths_get_one_line(tmp_path: Path):
    with pytest.raises(GenrefineError, match="no pictures in"):
        ImageSource(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(GenrefineError, match="must be a folder, a parquet file"):
        ImageSource(tmp_path / "x.zip")
    with pytest.raises(GenrefineError, match="cannot load the data set") as error:
        ImageSource(tmp_path / "nowhere", cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(GenrefineError, match="cannot load the data set"):
        ImageSource(tmp_path / "bad.parquet", cache_dir=tmp_path / "cache")


def test_a_table_that_changed_is_read_anew(tmp_path: Path) -> None:
    readme = "---\nconfigs:\n  - config_name: default\n    data_files: [{split: train, path: train.parquet}]\n---\n"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "README.md").write_text(readme)
    picture = Image.new("RGB", (8, 8))
    for words in (["one"], ["one", "two"]):
        table = datasets.Dataset.from_dict({"image": [picture] * len(words), "label": words})
        table.cast_column("image", datasets.Image()).to_parquet(tmp_path / "set" / "train.parquet")
        source = ImageSource(tmp_path / "set", cache_dir=tmp_path / "cache")
        assert source.column("label") == words
