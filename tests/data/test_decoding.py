"""Every kind of picture becomes the same pixels; bad ones become one line."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrefine.data.decoding import PictureDecoder
from genrefine.errors import GenrefineError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colors(height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_are_bytes_mapped_to_minus_one_and_one():
    picture = colors()
    pixels = PictureDecoder().pixels(encoded(Image.fromarray(picture)), "a")
    assert pixels.shape == (3, 1, 6, 9)
    expected = torch.from_numpy(picture).permute(2, 0, 1)[:, None].float() / 127.5 - 1
    torch.testing.assert_close(pixels, expected)


def test_a_file_and_its_bytes_give_the_same_pixels(tmp_path: Path):
    content = encoded(Image.fromarray(colors()))
    (tmp_path / "a.png").write_bytes(content)
    decoder = PictureDecoder(size=4)
    assert torch.equal(decoder.pixels(content, "a"), decoder.pixels(tmp_path / "a.png", "a"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_a_white_picture_is_white(mode: str):
    white = Image.new(mode, (5, 5), 65535 if mode == "I;16" else "white")
    assert PictureDecoder().pixels(encoded(white), "a").min() == 1


def test_sixteen_bit_grey_keeps_its_range_instead_of_clipping():
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    grey = np.asarray(PictureDecoder().picture(encoded(Image.fromarray(levels)), "a"))[..., 0]
    assert np.abs(grey.astype(float) - levels / 257).max() <= 0.5


@pytest.mark.parametrize("background", ["white", "#fa8072"])
def test_half_transparent_pixels_mix_with_the_stated_color(background: str):
    rgba = Image.new("RGBA", (4, 4), (0, 0, 255, 128))
    flat = PictureDecoder(background=background).picture(encoded(rgba), "a").getpixel((1, 1))
    paper = np.array(Image.new("RGB", (1, 1), background).getpixel((0, 0)))
    expected = paper + (np.array([0, 0, 255]) - paper) * 128 / 255
    assert np.abs(np.array(flat) - expected).max() <= 1


def test_a_palette_with_a_transparent_color_is_flattened():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((0, 0), 1)
    flat = PictureDecoder().picture(encoded(palette, transparency=0), "a")
    assert flat.getpixel((3, 3)) == (255, 255, 255)
    assert flat.getpixel((0, 0)) == (255, 0, 0)


def test_resizing_mixes_no_color_from_under_transparent_pixels():
    # A white disk on transparent black: on white paper nothing but white may remain at any size.
    rgba = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    rgba.paste((255, 255, 255, 255), (16, 16, 48, 48))
    assert PictureDecoder(size=16).pixels(encoded(rgba), "a").min() == 1


def test_exif_orientation_turns_the_picture_upright():
    upright = Image.fromarray(colors(6, 9))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees counterclockwise
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert PictureDecoder().picture(turned, "a").tobytes() == upright.tobytes()


def test_cropping_keeps_the_center_and_the_proportions():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    assert PictureDecoder(size=8).pixels(encoded(Image.fromarray(wide)), "a").min() == 1
    assert PictureDecoder(size=(4, 12)).pixels(encoded(Image.fromarray(wide)), "a").shape == (3, 1, 4, 12)


def test_a_picture_of_the_right_size_is_left_as_it_is():
    picture = colors(8, 8)
    assert PictureDecoder(size=8).picture(encoded(Image.fromarray(picture)), "a").tobytes() == picture.tobytes()


def test_reducing_averages_fine_detail_instead_of_sampling_it():
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    grey = np.asarray(PictureDecoder(size=8).picture(encoded(Image.fromarray(checkers)), "a")).astype(float)
    assert np.abs(grey - 127.5).max() < 8


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    content = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert PictureDecoder().picture(content, "a").getpixel((0, 0)) == (255, 0, 0)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose header promises many pixels that its few bytes do not hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8001, 8000), (12_000, 9000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]):
    with pytest.raises(GenrefineError, match="'big' has more than 64 megapixels"):
        PictureDecoder().pixels(bomb(*size), "big")


def test_the_largest_allowed_size_passes_the_header_check():
    PictureDecoder(max_pixels=54).pixels(encoded(Image.fromarray(colors(6, 9))), "a")
    with pytest.raises(GenrefineError, match="megapixels"):
        PictureDecoder(max_pixels=53).pixels(encoded(Image.fromarray(colors(6, 9))), "a")


def damaged() -> dict[str, bytes]:
    png, jpeg = encoded(Image.fromarray(colors(64, 64))), encoded(Image.fromarray(colors(64, 64)), "JPEG")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    return {
        "empty": b"",
        "text": b"not a picture",
        "truncated png": png[: len(png) // 2],
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "flipped bits": bytes(flipped),
        "header only": png[:33],
        "float": encoded(Image.new("F", (4, 4)), "TIFF"),
    }


@pytest.mark.parametrize("kind", damaged())
def test_a_damaged_picture_gives_one_line_with_its_name(kind: str):
    with pytest.raises(GenrefineError, match=r"^cannot read picture 'cats/tom'") as error:
        PictureDecoder().pixels(damaged()[kind], "cats/tom")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(GenrefineError, match=r"'gone' \(No such file"):
        PictureDecoder().pixels(tmp_path / "gone.png", "gone")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"size": (8, 0)}, "size must be at least 1"),
        ({"background": "whitish"}, "background must be a color"),
        ({"max_pixels": 0}, "max_pixels must be"),
        ({"max_pixels": 10**10}, "max_pixels must be"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str):
    with pytest.raises(GenrefineError, match=message):
        PictureDecoder(**options)
