"""From an encoded picture of any kind to pixels: `3 1 height width`, float32 in [-1, 1].

Order matters and is always the same: read the header, refuse too many pixels, decode, turn upright (EXIF), reduce to
8 bits, flatten on a color, crop and resize. Flattening comes before resizing because averaging straight RGBA would mix
the color that hides under transparent pixels into every outline. Color profiles are not applied.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.media.pixels import from_uint8

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Kinds of files that Pillow may open, whatever their names: others start programs (EPS) or read other files."""
NARROW_GREY = {"1": 255, "L;2": 85, "L;4": 17}
"""Grey of 1, 2 and 4 bits, and what Pillow multiplies its levels by."""
WIDE_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
LYING = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True)
class PictureDecoder:
    """Turn encoded pictures into RGB of one size.

    Args:
        size: height and width in pixels, or one number for both; the picture is cropped around its center to this
            shape and resized with an antialiasing Lanczos filter. None keeps the picture's own size.
        background: color on which transparent pictures are flattened, in any notation of CSS.
        max_pixels: largest width x height that is decoded, judged by the header; at most Pillow's own limit.
    """

    size: tuple[int, int] | int | None = None
    background: str = "white"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.size is not None and min(self.shape or ()) < 1:
            raise GenrefineError(f"size must be at least 1 pixel; got {self.size}")
        limit = 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
        if not 1 <= self.max_pixels <= limit:
            raise GenrefineError(f"max_pixels must be 1 to {limit}, Pillow's own limit; got {self.max_pixels}")
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise GenrefineError(
                f"background must be a color such as 'white' or '#fa8072'; got '{self.background}'"
            ) from None

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of every picture, or None where each keeps its own."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def picture(self, encoded: Path | bytes, name: str) -> Image.Image:
        """Decode to RGB.

        Args:
            encoded: a file or the bytes of one; of an animation the first frame is taken.
            name: what the error calls the picture.

        Raises:
            GenrefineError: the picture is missing, damaged, too large or of a kind without a known range.
        """
        with self._reading(name), open_picture(encoded) as source:
            self._refuse_bomb(source)
            tiles: Any = getattr(source, "tile", None)  # of files only; not in every Pillow's annotations
            factor = NARROW_GREY.get(str(tiles[0][3]), 1) if source.format == "PNG" and tiles else 1
            source.load()
            image = ImageOps.exif_transpose(source)
            if isinstance(clear := image.info.get("transparency"), int) and image.mode in ("1", "L"):
                image = image.convert("L")  # a transparent level of a picture of 1 bit would be passed over
                image.info["transparency"] = min(clear * factor, 255)  # the file counts levels of its own depth
            return self.fit(_to_8_bits(image))

    def original_size(self, encoded: Path | bytes, name: str) -> tuple[int, int]:
        """Return height and width of the upright picture before cropping and resizing.

        The header tells, except that a PNG, which may keep its orientation behind the picture, is decoded.

        Raises:
            GenrefineError: as in `picture`, as far as the header tells.
        """
        with self._reading(name), open_picture(encoded) as source:
            self._refuse_bomb(source)
            lies = source.getexif().get(ExifTags.Base.Orientation, 1) in LYING
            return (source.width, source.height) if lies else (source.height, source.width)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn whatever goes wrong while a picture is read into one line that names it."""
        try:
            yield
        except Image.DecompressionBombError:
            limit = f"{self.max_pixels / 1e6:g}"
            raise GenrefineError(f"picture '{name}' has more than {limit} megapixels; reduce it first") from None
        except Exception as error:  # Pillow's readers raise almost anything on damaged input
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):
                reason = "not a picture format that Pillow knows"
            elif isinstance(error, OSError) and error.strerror:
                reason = error.strerror
            raise GenrefineError(f"cannot read picture '{name}' ({reason}); repair or remove it") from error

    def fit(self, image: Image.Image) -> Image.Image:
        """Return a decoded picture of 8 bits as RGB, flattened, cropped and resized."""
        flat = self._flatten(image)
        if self.shape is None:
            return flat
        height, width = self.shape
        return ImageOps.fit(flat, (width, height), Image.Resampling.LANCZOS)

    def pixels(self, encoded: Path | bytes, name: str) -> Float[Tensor, "3 1 height width"]:
        """Decode to pixels of one frame in [-1, 1]; see `picture`."""
        frame = torch.from_numpy(np.array(self.picture(encoded, name)))
        return from_uint8(frame[None, None])[0]

    def _refuse_bomb(self, source: Image.Image) -> None:
        if source.width * source.height > self.max_pixels:
            raise Image.DecompressionBombError

    def _flatten(self, image: Image.Image) -> Image.Image:
        if image.mode not in TRANSPARENT and "transparency" not in image.info:
            return image.convert("RGB")
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, (*ImageColor.getrgb(self.background)[:3], 255))
        return Image.alpha_composite(paper, layered).convert("RGB")


def open_picture(encoded: Path | bytes) -> Image.Image:
    """Open a picture without decoding it, and without Pillow's warning of a large one."""
    with warnings.catch_warnings():
        # Pillow warns from 89 megapixels on; our own limit decides instead.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=FORMATS)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits (Pillow would clip it) and leave the other modes to Pillow."""
    if image.mode == "F":
        raise ValueError("floating-point pictures have no known range")
    if image.mode not in WIDE_GREY:
        return image
    levels = np.asarray(image).astype(np.int64)
    if levels.min(initial=0) < 0 or levels.max(initial=0) > 65535:
        raise ValueError("32-bit pictures have no known range")
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # one level of 65,536, of which reducing to 8 bits would make a range
        grey.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return grey
