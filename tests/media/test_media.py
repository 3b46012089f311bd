"""Laws of pictures and files."""

import json
import stat
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genrefine import files
from genrefine.data.films import Film
from genrefine.errors import GenrefineError
from genrefine.media import pixels as pixels_module
from genrefine.media import sheets, writing


def picture(width: int = 5, height: int = 3, seed: int = 0) -> Image.Image:
    content = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(content)


def test_every_byte_survives_the_way_to_pixels_and_back():
    frames = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 1, 16, 16, 3)
    assert torch.equal(pixels_module.to_uint8(pixels_module.from_uint8(frames)), frames)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=16))
def test_pixels_round_and_clip_as_the_formula_says(values):
    row = torch.tensor(values, dtype=torch.float32)
    pixels = row.expand(1, 3, 1, 1, -1)
    expected = np.round(np.clip((row.numpy() + np.float32(1)) / 2 * 255, 0, 255)).astype(np.uint8)
    assert np.array_equal(pixels_module.to_uint8(pixels)[0, 0, 0, :, 1].numpy(), expected)


def test_half_precision_pixels_are_rounded_in_float32():
    pixels = torch.full((1, 3, 1, 1, 1), 0.25, dtype=torch.bfloat16)
    assert pixels_module.to_uint8(pixels).unique().tolist() == [159]


def test_channels_rows_and_columns_keep_their_places():
    original = picture()
    pixels = pixels_module.from_pil(original)
    assert pixels.shape == (1, 3, 1, 3, 5)
    assert pixels[0, 2, 0, 1, 4].item() == pytest.approx(original.getpixel((4, 1))[2] / 127.5 - 1)
    assert pixels_module.to_pil(pixels)[0].tobytes() == original.tobytes()


def test_png_returns_picture_and_settings(tmp_path):
    settings = {"seed": 7, "label": "Zoë 世界", "interval": [0.4, 1.0]}
    writing.save_png(picture(), tmp_path / "new" / "a.png", settings)
    assert Image.open(tmp_path / "new" / "a.png").tobytes() == picture().tobytes()
    assert writing.read_png_metadata(tmp_path / "new" / "a.png") == settings


def test_png_of_others_is_refused_when_settings_are_asked(tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(GenrefineError, match="carries no 'genrefine' text"):
        writing.read_png_metadata(tmp_path / "a.png")


@pytest.mark.parametrize("place", ["file/a.png", "."])
@pytest.mark.parametrize("act", [files.require_writable, lambda path: writing.save_png(picture(), path)])
def test_a_path_that_cannot_be_written_is_refused_in_one_line(tmp_path, place, act):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GenrefineError, match="cannot write") as error:
        act(tmp_path / place)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_proving_a_path_leaves_nothing_behind(tmp_path):
    files.require_writable(tmp_path / "deep" / "a.png")
    files.require_writable_folder(tmp_path / "folder")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert (tmp_path / "folder").is_dir()


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    files.write_atomically(target, b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(GenrefineError, match="No space left"):
        files.write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_written_files_have_the_permissions_of_any_new_file(tmp_path):
    files.write_atomically(tmp_path / "ours", b"")
    (tmp_path / "theirs").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "theirs")}
    assert len(modes) == 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animation_keeps_frames_and_holds_the_last(tmp_path, suffix):
    frames = [picture(8, 8, seed) for seed in range(3)]
    path = tmp_path / f"a{suffix}"
    writing.save_animation(frames, path, frame_milliseconds=50, last_frame_milliseconds=900)
    with Image.open(path) as stored:
        durations = []
        assert stored.n_frames == 3
        for index, frame in enumerate(frames):
            stored.seek(index)
            stored.load()
            assert np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(frame))
            durations.append(stored.info["duration"])
    assert durations == [50, 50, 900]


def test_animation_refuses_other_endings_and_emptiness(tmp_path):
    with pytest.raises(GenrefineError, match=r"\.gif or \.webp"):
        writing.save_animation([picture()], tmp_path / "a.mp4")
    with pytest.raises(GenrefineError, match="at least one frame"):
        writing.save_animation([], tmp_path / "a.gif")


def test_grid_places_every_picture_unchanged():
    images = [picture(6, 4, seed) for seed in range(5)]
    sheet = np.asarray(sheets.image_grid(images, columns=3, gap=2))
    assert sheet.shape == (2 * (4 + 2) + 2, 3 * (6 + 2) + 2, 3)
    for index, image in enumerate(images):
        top, left = 2 + index // 3 * 6, 2 + index % 3 * 8
        assert np.array_equal(sheet[top : top + 4, left : left + 6], np.asarray(image))
    assert np.array_equal(sheet[8:12, 18:24], np.broadcast_to(np.uint8(sheets.PAPER), (4, 6, 3)))


def test_grid_enlarges_without_inventing_colors():
    image = picture(4, 4)
    sheet = np.asarray(sheets.image_grid([image], scale=3, gap=0))
    assert np.array_equal(sheet[::3, ::3], np.asarray(image))


def test_labels_write_below_pictures_and_long_ones_stay_inside_their_cell():
    white = Image.new("RGB", (64, 64), "white")
    plain = np.asarray(sheets.image_grid([white, white], columns=2))
    labeled = np.asarray(sheets.image_grid([white, white], columns=2, labels=["", "supercalifragilistic/noto style"]))
    assert labeled.shape[0] > plain.shape[0]
    below = labeled[8 + 64 :]
    ink = np.argwhere((below != np.uint8(sheets.PAPER)).any(-1))
    assert len(ink) > 0
    assert ink[:, 1].min() >= 8 + 64 + 8
    assert ink[:, 1].max() < 8 + 64 + 8 + 64


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [(0, {}, "at least one"), (2, {"labels": ["a"]}, "one label per picture"), (1, {"scale": 0}, "at least 1")],
)
def test_grid_refuses_what_it_cannot_lay_out(images, options, message):
    with pytest.raises(GenrefineError, match=message):
        sheets.image_grid([picture()] * images, **options)


def moving(count: int = 9, width: int = 16, height: int = 12) -> list[Image.Image]:
    """Return frames that grow brighter, each by 20 levels."""
    return [Image.new("RGB", (width, height), (20 * k, 20 * k, 20 * k)) for k in range(count)]


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_a_clip_keeps_frames_speed_and_settings(tmp_path, suffix):
    path, frames = tmp_path / f"clip{suffix}", moving()
    writing.save_clip(frames, path, frames_per_second=12, metadata={"prompt": "herz \N{BLACK HEART SUIT}"})
    durations = []
    with Image.open(path) as clip:
        assert clip.n_frames == 9
        for index, frame in enumerate(frames):
            clip.seek(index)
            assert clip.convert("RGB").tobytes() == frame.tobytes()
            durations.append(clip.info["duration"])
    assert sum(durations) == 750
    assert writing.read_clip_metadata(path) == {"prompt": "herz \N{BLACK HEART SUIT}"}


@pytest.mark.parametrize(("width", "height"), [(16, 12), (17, 11)])
def test_an_mp4_keeps_frames_speed_and_settings_and_makes_sizes_even(tmp_path, width, height):
    path = tmp_path / "clip.mp4"
    writing.save_clip(moving(9, width, height), path, frames_per_second=12.5, metadata={"seed": 7})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(25, 2)
        assert (stream.width, stream.height) == (width + width % 2, height + height % 2)
        assert stream.pix_fmt == "yuv420p"
        means = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(stream)]
    assert means == pytest.approx([20 * k for k in range(9)], abs=3)
    assert writing.read_clip_metadata(path) == {"seed": 7}


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
@pytest.mark.parametrize(("levels", "speed"), [("aaabccccd", 12), ("aaaa", 7.3), ("abbb", 50), ("aab", 33.3)])
@pytest.mark.parametrize("metadata", [None, {"seed": 7}])
def test_equal_neighbours_read_back_as_written(tmp_path, suffix, levels, speed, metadata):
    """Both encoders merge equal frames, and a clip of 17 came back as one of 10."""
    path = tmp_path / f"clip{suffix}"
    frames = [Image.new("RGB", (16, 12), (20 * ord(level) - 1900,) * 3) for level in levels]
    writing.save_clip(frames, path, frames_per_second=speed, metadata=metadata)
    with Film(path, 10**6) as film:
        shots = [(shot.image().convert("RGB").tobytes(), shot.start, shot.end) for shot in film.shots(Fraction(0))]
    assert [content for content, _, _ in shots] == [frame.tobytes() for frame in frames]
    assert shots[-1][2] == pytest.approx(len(frames) / speed, abs=0.006)
    for index, (_, start, _) in enumerate(shots):
        assert float(start) == pytest.approx(index / speed, abs=0.011)
    if metadata:
        assert writing.read_clip_metadata(path) == metadata
    else:
        with pytest.raises(GenrefineError, match="carries no settings"):
            writing.read_clip_metadata(path)


FORGED = [[[1], [10**9]], [[1], [-1]], [[1]], [[1], 2], "12", {"a": 1}, [[True], [2]], [[1], [1] * 10**6], 10**5 * "["]


@pytest.mark.parametrize("durations", FORGED, ids=lambda forged: str(forged)[:20])
def test_forged_durations_are_not_believed(tmp_path, durations):
    path = tmp_path / "clip.gif"
    is_deep = isinstance(durations, str) and len(durations) > 9
    note = durations if is_deep else json.dumps({writing.DURATIONS_KEY: durations})
    frames = moving(2)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, comment=note.encode())
    with Film(path, 10**6) as film:
        assert [shot.end for shot in film.shots(Fraction(0))] == [Fraction(1, 10), Fraction(2, 10)]


def test_clips_refuse_what_they_cannot_hold(tmp_path):
    for suffix, speed in ((".gif", 51), (".webp", 1001)):
        with pytest.raises(GenrefineError, match=r"holds at most \d+ frames a second; got \d+; write .* as \.mp4"):
            writing.save_clip(moving(), tmp_path / f"clip{suffix}", frames_per_second=speed)
    for suffix in (".png", ""):
        with pytest.raises(GenrefineError, match=r"a clip must end in \.mp4, \.webp or \.gif"):
            writing.save_clip(moving(), tmp_path / f"clip{suffix}", frames_per_second=12)
    for frames, speed in (([], 12), ([*moving(), picture()], 12), (moving(), 0), (moving(), float("nan"))):
        with pytest.raises(GenrefineError, match="frames of one size and a speed"):
            writing.save_clip(frames, tmp_path / "clip.mp4", frames_per_second=speed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".gif"])
def test_clips_of_others_are_refused_when_settings_are_asked(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    writing.save_clip(moving(), path, frames_per_second=12)
    with pytest.raises(GenrefineError, match="carries no settings"):
        writing.read_clip_metadata(path)
    path.write_bytes(b"no clip")
    with pytest.raises(GenrefineError, match="carries no settings"):
        writing.read_clip_metadata(path)
