"""Pictures sorted by shape: each is in the bucket of the nearest aspect ratio, whole but for what sticks out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrefine import GenrefineError
from genrefine.data import ImageSource
from genrefine.data.buckets import Buckets

BUCKETS = Buckets.of({"16": 4}, (2.0, 1.0, 0.5), spatial_stride=4, max_frames=1)
SHAPES = {"a": (40, 20), "b": (20, 22), "c": (10, 23), "d": (30, 29), "e": (15, 31), "f": (9, 100)}  # height, width


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    draws = np.random.default_rng(0)
    lines = []
    for name, (height, width) in SHAPES.items():
        Image.fromarray(draws.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
        lines.append({"file_name": f"{name}.png", "text": f"picture {name}", "label": name in "ace", "style": name})
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (50, 25)).save(folder / "g.jpg", exif=exif)
    lines.append({"file_name": "g.jpg", "text": "picture g", "label": 1, "style": "g"})
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps({**x, "label": int(x["label"])}) for x in lines))
    return folder


@pytest.fixture
def source(folder: Path) -> ImageSource:
    return ImageSource(folder, size=16, caption_column="text")


def test_every_picture_is_in_the_bucket_of_its_shape_alone(source: ImageSource) -> None:
    parts = source.by_bucket(BUCKETS, "16")
    found = {size: [name[0] for name in part.names] for size, part in parts.items()}
    assert found == {(24, 12): ["a", "g"], (16, 16): ["b", "d"], (12, 24): ["c", "e", "f"]}


def test_captions_classes_columns_and_pixels_follow_the_picture(source: ImageSource, folder: Path) -> None:
    for (height, width), part in source.by_bucket(BUCKETS, "16").items():
        alone = ImageSource(folder, size=(height, width), caption_column="text")
        assert part.class_names == source.class_names
        for place, name in enumerate(part.names):
            index = source.names.index(name)
            assert part.captions[place] == source.captions[index] == (f"picture {name[0]}",)
            assert part.column("style")[place] == name[0]
            pixels, label = part[place]
            assert label == source.labels[index]
            assert torch.equal(pixels, alone[index][0])
            assert pixels.shape == (3, 1, height, width)
    assert source[0][0].shape == (3, 1, 16, 16)  # the source itself stays as it was


def test_sizes_are_those_of_the_upright_picture(source: ImageSource) -> None:
    sizes = {name[0]: source.original_size(index) for index, name in enumerate(source.names)}
    assert sizes == {**SHAPES, "g": (50, 25)}


def test_buckets_of_equal_size_are_one_and_empty_ones_are_left_out(source: ImageSource) -> None:
    coarse = Buckets.of({"8": 2}, (1.1, 1.0, 0.9, 5.0), spatial_stride=4, max_frames=1)
    parts = source.by_bucket(coarse, "8")
    assert list(parts) == [(8, 8)]
    assert parts[8, 8].names == source.names


def test_a_picture_that_cannot_be_read_is_named(source: ImageSource, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(GenrefineError, match=r"cannot read picture 'broken.png' \(not a picture format"):
        ImageSource(tmp_path).by_bucket(BUCKETS, "16")
    with pytest.raises(GenrefineError, match="budget must be one of 16; got '32'"):
        source.by_bucket(BUCKETS, "32")
    source.decoder = type(source.decoder)(max_pixels=300)
    with pytest.raises(GenrefineError, match="megapixels"):
        source.original_size(0)


def test_a_part_keeps_the_order_it_is_asked_for(source: ImageSource) -> None:
    part = source.subset([4, 0])
    assert part.names == [source.names[4], source.names[0]]
    assert torch.equal(part[1][0], source[0][0])
    assert len(source.subset([])) == 0
