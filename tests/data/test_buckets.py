"""Sizes: the published table, every valid size, and batches of one size."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrefine.data.buckets import PUBLISHED_BUDGETS, Bucket, Buckets
from genrefine.errors import GenrefineError
from genrefine.resolutions import ASPECT_RATIOS, published_ratio

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens/resolution.json").read_text())
PUBLISHED = Buckets.published()


def test_all_published_sizes_are_reproduced():
    ours = {}
    for bucket in PUBLISHED.entries:
        ratio = str(int(bucket.ratio * 1000) / 1000)
        ours.setdefault(ratio, {})[bucket.budget] = [bucket.height, bucket.width]
        assert list(PUBLISHED.grid(1, bucket.height, bucket.width)) == [1, bucket.height // 16, bucket.width // 16]
    assert ours == GOLDEN["sizes"]
    assert len(PUBLISHED.entries) == 15 * 6


@pytest.mark.parametrize(("ratio", "template"), GOLDEN["nearest_template"])
def test_a_ratio_goes_to_the_published_template(ratio, template):
    bucket = PUBLISHED.nearest(ratio, 1, "0.25M")
    assert int(bucket.ratio * 1000) / 1000 == template
    assert [bucket.height, bucket.width] == GOLDEN["sizes"][str(template)]["0.25M"]


@pytest.mark.parametrize(("seconds", "frames", "latent_frames"), GOLDEN["duration_to_frames"])
def test_durations_give_the_published_numbers_of_frames(seconds, frames, latent_frames):
    assert PUBLISHED.frames_of(seconds) == frames
    assert PUBLISHED.grid(frames, 256, 256)[0] == latent_frames


def test_every_bucket_is_nearest_to_itself_and_to_its_ratio():
    for bucket in PUBLISHED.entries:
        nearest = PUBLISHED.nearest(bucket.height, bucket.width)
        assert (nearest.height, nearest.width) == (bucket.height, bucket.width)
        assert published_ratio(bucket.height, bucket.width) == int(bucket.ratio * 1000) / 1000


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 20))
@settings(deadline=None)
def test_every_valid_size_has_a_grid(rows, columns, extra):
    assert PUBLISHED.grid(1 + 4 * extra, 16 * rows, 16 * columns) == (1 + extra, rows, columns)


@given(st.integers(-50, 3000), st.integers(-50, 3000), st.integers(-5, 120))
@settings(deadline=None)
def test_every_other_size_is_refused_with_one_that_is_possible(height, width, frames):
    try:
        assert math.prod(PUBLISHED.grid(frames, height, width)) > 0
    except GenrefineError as error:
        message = str(error)
        assert "\n" not in message
        suggested = int(message.split("nearest ")[1].split(",")[0])
        if message.startswith("frames"):
            assert PUBLISHED.grid(suggested, 16, 16)
            assert abs(suggested - min(max(frames, 1), 81)) <= 2
        else:
            name = message.split()[0]
            assert PUBLISHED.grid(1, *((suggested, 16) if name == "height" else (16, suggested)))


@given(st.floats(0, 20))
@settings(deadline=None)
def test_every_duration_gives_a_clip_that_is_not_longer(seconds):
    frames = PUBLISHED.frames_of(seconds)
    assert PUBLISHED.grid(frames, 16, 16)
    assert (frames - 1) / 16 <= seconds


def test_errors_name_the_nearest_size_and_the_nearest_bucket():
    with pytest.raises(GenrefineError, match=r"height must be a multiple of 16; got 500; nearest 496, .* 480 x 848"):
        PUBLISHED.grid(1, 500, 848)
    with pytest.raises(GenrefineError, match=r"frames must be 1 \+ 4k, up to 81; got 16; nearest 17"):
        PUBLISHED.grid(16, 256, 256)
    pictures = Buckets.of({"64": 8}, (1.0,), spatial_stride=8, max_frames=1)
    with pytest.raises(GenrefineError, match="frames must be 1, as these are pictures only; got 13"):
        pictures.grid(13, 64, 64)


def test_buckets_follow_other_strides():
    small = Buckets.of({"64": 8}, (2.0, 1.0, 0.5), spatial_stride=8, max_frames=17)
    assert [(bucket.height, bucket.width) for bucket in small.entries] == [(88, 48), (64, 64), (48, 88)]
    assert small.grid(17, 64, 64) == (5, 8, 8)


def test_a_small_grid_keeps_a_row_and_a_column():
    tiny = Buckets.of({"8": 2}, (100.0, 1.0, 0.01), spatial_stride=4, max_frames=1)
    assert [(bucket.height, bucket.width) for bucket in tiny.entries] == [(80, 4), (8, 8), (4, 80)]


def test_settings_that_do_not_fit_are_refused():
    for arguments, message in (
        ({"entries": ()}, "at least one bucket"),
        ({"entries": PUBLISHED.entries, "max_frames": 20}, r"max_frames must be 1 \+ 4k; got 20"),
        ({"entries": (Bucket("a", 1.0, 30, 32),)}, "height must be a multiple of 16; got 30"),
    ):
        with pytest.raises(GenrefineError, match=message):
            Buckets(**arguments)
    with pytest.raises(GenrefineError, match=r"budget must be one of 0.06M, .*; got '4M'"):
        PUBLISHED.nearest(1, 1, "4M")
    with pytest.raises(GenrefineError, match="more than 0"):
        PUBLISHED.nearest(0, 1)
    with pytest.raises(GenrefineError, match="0 seconds or more"):
        PUBLISHED.frames_of(-1)
    with pytest.raises(GenrefineError, match="aspect ratios, height over width, must be more than 0; got -1"):
        Buckets.of({"64": 8}, (1.0, -1.0))
    assert len(PUBLISHED_BUDGETS) * len(ASPECT_RATIOS) == 90
