"""Films as cameras and programs really write them: turned, mirrored, transparent, late, of a varying rate."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genrefine.data.clip_decoding import ClipDecoder
from genrefine.data.decoding import PictureDecoder
from genrefine.data.films import Film, upright
from genrefine.errors import GenrefineError

FILES = Path(__file__).parents[1] / "goldens/data"
QUARTERS = [(a, 0, 0, d) for a, d in product((1, -1), repeat=2)] + [(0, b, c, 0) for b, c in product((1, -1), repeat=2)]


def shown(picture: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Return a picture moved pixel by pixel: x = a p + c q, y = b p + d q, and back into the corner."""
    height, width = picture.shape[:2]
    places = {(a * p + c * q, b * p + d * q): picture[q, p] for q in range(height) for p in range(width)}
    left, top = min(x for x, _ in places), min(y for _, y in places)
    found = np.zeros((height, width, 3) if a else (width, height, 3), dtype=np.uint8)
    for (x, y), pixel in places.items():
        found[y - top, x - left] = pixel
    return found


@pytest.mark.parametrize("quarter", QUARTERS)
def test_each_of_the_eight_display_matrices_is_followed(quarter):
    a, b, c, d = (65536 * one for one in quarter)
    matrix = np.array([a, b, 0, c, d, 0, 7 << 16, 5 << 16, 1 << 30], dtype=np.int32)
    picture = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    assert np.array_equal(upright(picture, matrix), shown(picture, *quarter))


def test_without_a_matrix_or_at_another_angle_a_picture_stays():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    tilted = np.array([46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30], dtype=np.int32)
    assert upright(picture, None) is picture
    assert np.array_equal(upright(picture, tilted), picture)


def test_a_mirrored_film_is_mirrored_and_not_turned():
    with Film(FILES / "hflip.mp4", 10**6) as film:
        coded = next(iter(film.source.decode(film.video))).to_ndarray(format="rgb24")
    first, *_ = ClipDecoder(num_frames=1, size=None).frames(FILES / "hflip.mp4", "hflip.mp4")
    assert np.array_equal(np.asarray(first), coded[:, ::-1])
    assert not np.array_equal(coded, coded[:, ::-1])


@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
def test_what_is_transparent_shows_the_background(background, level):
    decoder = ClipDecoder(num_frames=9, size=None, background=background)
    assert {tuple(pixel) for frame in decoder.frames(FILES / "a_vp9.webm", "a_vp9.webm") for pixel in
            np.asarray(frame).reshape(-1, 3).tolist()} == {(level,) * 3}  # fmt: skip


@pytest.mark.parametrize("name", ["late.mkv", "slowend.mp4"])
def test_the_middle_is_that_of_the_frames_that_are_there(name):
    whole = ClipDecoder(num_frames=20, size=None).frames(FILES / name, name)
    middle = ClipDecoder(num_frames=9, size=None, segment="middle").frames(FILES / name, name)
    assert [frame.tobytes() for frame in middle] == [frame.tobytes() for frame in whole[5:14]]


def test_with_a_rate_the_middle_is_that_of_the_time():
    # 18 frames of 0.04 s, one of 1 s, one of 0.1 s: in the middle of the whole stands the slow one.
    with Film(FILES / "slowend.mp4", 10**6) as film:
        starts, end = film.times()
    decoder = ClipDecoder(num_frames=4, size=None, segment="middle", frames_per_second=10)
    found = decoder.frames(FILES / "slowend.mp4", "slowend.mp4")
    whole = ClipDecoder(num_frames=20, size=None).frames(FILES / "slowend.mp4", "slowend.mp4")
    times = [(float(end) - 0.4) / 2 + k / 10 for k in range(4)]
    slow = [max(j for j, start in enumerate(starts) if start <= time + 1e-3) for time in times]
    assert [frame.tobytes() for frame in found] == [whole[j].tobytes() for j in slow]


def test_the_default_still_of_an_animation_is_no_frame_of_it():
    with Image.open(FILES / "poster.apng") as source:
        assert source.default_image
        source.seek(1)
        paper = Image.new("RGBA", source.size, "white")
        expected = np.asarray(Image.alpha_composite(paper, source.convert("RGBA")).convert("RGB"))
        source.seek(0)
        poster = np.asarray(Image.alpha_composite(paper, source.convert("RGBA")).convert("RGB"))
    assert not np.array_equal(poster, expected)
    first, *_ = ClipDecoder(num_frames=5, size=None).frames(FILES / "poster.apng", "poster.apng")
    assert np.array_equal(np.asarray(first), expected)
    with pytest.raises(GenrefineError, match="must have 6 frames; got 5"):
        ClipDecoder(num_frames=6, size=None).frames(FILES / "poster.apng", "poster.apng")


def grey_png(bits: int, clear: int) -> bytes:
    """Return a PNG of 4 grey levels of so many bits, one of which is transparent; written by hand."""
    import struct
    import zlib

    levels = [k * (2**bits - 1) // 3 for k in range(4)] if bits > 1 else [0, 1, 0, 1]
    row = sum(level << (bits * (3 - k)) for k, level in enumerate(levels)) << (-4 * bits % 8)
    data = b"\0" + row.to_bytes(-(-4 * bits // 8), "big")

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    parts = (b"IHDR", head), (b"tRNS", struct.pack(">H", levels[clear])), (b"IDAT", zlib.compress(data)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_level_of_grey_is_laid_on_the_background(bits):
    found = np.asarray(PictureDecoder(background="#204060").picture(grey_png(bits, 1), "grey"))[0].tolist()
    shown = [0, 85, 170, 255] if bits > 1 else [0, 255, 0, 255]
    expected = [[0x20, 0x40, 0x60] if level == shown[1] else [level] * 3 for level in shown]
    assert found == expected


def test_the_grey_of_a_real_file_is_laid_on_the_background():
    found = np.asarray(PictureDecoder().picture(FILES / "g16trns.png", "g16trns.png"))
    with Image.open(FILES / "g16trns.png") as source:
        clear = np.asarray(source).astype(int) == source.info["transparency"]
    assert clear.any()
    assert (found[clear] == 255).all()
    assert not (found[~clear] == 255).all()


def test_a_file_is_opened_as_what_pictures_are_and_never_as_a_program(tmp_path: Path):
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    (tmp_path / "a.png").write_bytes(drawing)
    with pytest.raises(GenrefineError, match="not a picture format"):
        PictureDecoder().picture(tmp_path / "a.png", "a.png")
