"""Pictures and clips that are edited: brought to the size of the model, and laid over the result in the end.

A picture keeps its shape: it is scaled until it just fits (Lanczos, whole pixels), and its edges are repeated to fill
the rest. What the model made goes the way back, to the size that the picture came in. A mask says what is to be made
anew: white, as in diffusers; each position of the grid of codes that white touches is made anew, whole.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from genrefine.data.decoding import PictureDecoder
from genrefine.errors import GenrefineError, whole_number
from genrefine.media.pixels import from_pil

MOST_SIDE = 8192
"""Pixels of a side after outpainting."""
Margins = tuple[int, int, int, int]
Picture = Image.Image | str | Path


@dataclass(frozen=True)
class Canvas:
    """One frame on its way through a model.

    Args:
        original: as it came, upright and flat, with the margins that outpainting adds.
        mask: what to make anew, "height width" of the original.
        size: height and width that the model works at.
    """

    original: Image.Image
    mask: Bool[np.ndarray, "height width"]
    size: tuple[int, int]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of the picture within the working size."""
        height, width = self.size
        scale = min(width / self.original.width, height / self.original.height)
        inner = max(1, round(self.original.width * scale)), max(1, round(self.original.height * scale))
        return (width - inner[0]) // 2, (height - inner[1]) // 2, *inner

    def pixels(self) -> Float[Tensor, "1 3 1 height width"]:
        """Return the picture at the working size, its edges repeated, in [-1, 1]."""
        left, top, width, height = self.box
        inner = self.original
        if inner.size != (width, height):
            inner = inner.resize((width, height), Image.Resampling.LANCZOS)
        room = ((top, self.size[0] - top - height), (left, self.size[1] - left - width), (0, 0))
        return from_pil(Image.fromarray(np.pad(np.asarray(inner), room, mode="edge")))

    def released(self, stride: int) -> Bool[Tensor, "rows columns"]:
        """Return the positions of the grid of codes that the mask touches; those beside the picture if it is anew.

        Args:
            stride: pixels of a side of one position.
        """
        left, top, width, height = self.box
        rows, columns = self.size[0] // stride, self.size[1] // stride
        ys, xs = np.nonzero(self.mask)
        tops, bottoms = _positions(ys, top, height, self.mask.shape[0], stride)
        lefts, rights = _positions(xs, left, width, self.mask.shape[1], stride)
        # Corners of rectangles in a table of differences, summed up once.
        corners = np.zeros((rows + 1, columns + 1), dtype=np.int64)
        np.add.at(corners, (tops, lefts), 1)
        np.add.at(corners, (bottoms + 1, lefts), -1)
        np.add.at(corners, (tops, rights + 1), -1)
        np.add.at(corners, (bottoms + 1, rights + 1), 1)
        touched = corners.cumsum(0).cumsum(1)[:rows, :columns] > 0
        return torch.from_numpy(_spread_to_edges(touched, self.box, stride))

    def restore(self, made: Image.Image, blend: bool) -> Image.Image:
        """Return what the model made at the size of the original.

        Args:
            made: at the working size.
            blend: lay the original's own pixels over everything but the mask, with a feathered edge.
        """
        left, top, width, height = self.box
        result = made.crop((left, top, left + width, top + height))
        if result.size != self.original.size:
            result = result.resize(self.original.size, Image.Resampling.LANCZOS)
        if not blend or self.mask.all():
            return result
        if not self.mask.any():
            return self.original.copy()
        feather = max(1, round(max(self.original.size) / 64))
        grown = Image.fromarray(self.mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * feather + 1))
        soft = np.maximum(np.asarray(grown.filter(ImageFilter.GaussianBlur(feather))), self.mask * 255)
        reach = np.asarray(grown.filter(ImageFilter.MaxFilter(2 * feather + 1))) > 0
        return Image.composite(result, self.original, Image.fromarray((soft * reach).astype(np.uint8)))


def _positions(
    pixels: NDArray[np.int64], first: int, inner: int, whole: int, stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and last position that each pixel touches along one axis.

    Args:
        pixels: places in the original.
        first: where the original begins at the working size.
        inner: its extent there.
        whole: its own extent.
        stride: of the positions.
    """
    begin, end = first * whole + pixels * inner, first * whole + (pixels + 1) * inner  # in parts of a pixel
    return begin // (stride * whole), -(-end // (stride * whole)) - 1


def _spread_to_edges(touched: NDArray[np.bool_], box: tuple[int, int, int, int], stride: int) -> NDArray[np.bool_]:
    """Let positions beside the picture, which repeat its edge, share the lot of the nearest one within it."""
    left, top, width, height = box
    rows = np.clip(np.arange(touched.shape[0]), top // stride, (top + height - 1) // stride)
    columns = np.clip(np.arange(touched.shape[1]), left // stride, (left + width - 1) // stride)
    spread: NDArray[np.bool_] = touched[rows][:, columns]
    return spread


def read_picture(picture: Any, what: str) -> Image.Image:
    """Return a picture upright, flattened on white, in RGB.

    Args:
        picture: a PIL picture, a path, or a tensor "3 height width" in [0, 1].
        what: what errors call it.

    Raises:
        GenrefineError: it is none, or cannot be read.
    """
    if isinstance(picture, (str, Path)):
        return PictureDecoder().picture(Path(picture), str(picture))
    if isinstance(picture, Tensor) and picture.ndim == 3 and len(picture) == 3 and picture.is_floating_point():
        levels = (picture.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(np.ascontiguousarray(levels.permute(1, 2, 0).numpy()))
    if isinstance(picture, Image.Image):
        content = io.BytesIO()
        ImageOps.exif_transpose(picture).save(content, "PNG")
        return PictureDecoder().picture(content.getvalue(), what)  # flattens every mode alike
    raise GenrefineError(
        f"{what} must be a PIL picture, a path, or floats of shape (3, height, width); got {type(picture).__name__}"
    )


def read_mask(mask: Any, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Return what a mask marks as to be made anew: what is lighter than middle grey.

    Args:
        mask: a PIL picture or a path, of the size of the picture; or an array or tensor "height width", of bools or in
            [0, 1].
        size: width and height of the picture.

    Raises:
        GenrefineError: it is none, or of another size.
    """
    if isinstance(mask, (str, Path, Image.Image)):
        opened = read_picture(mask, "mask_image").convert("L")
        marked = np.asarray(opened) >= 128
    elif isinstance(mask, (Tensor, np.ndarray)) and mask.ndim == 2:
        marked = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask) >= 0.5
    else:
        raise GenrefineError(
            f"mask_image must be a PIL picture, a path, or an array (height, width); got {type(mask).__name__}"
        )
    if marked.shape != size[::-1]:
        raise GenrefineError(
            f"mask_image must have the size of the picture, {size[0]} x {size[1]} (width x height); got "
            f"{marked.shape[1]} x {marked.shape[0]}; resize it"
        )
    return marked


def grow(picture: Image.Image, mask: Bool[np.ndarray, "height width"], margins: Sequence[SupportsIndex]) -> Any:
    """Return a picture with margins of its repeated edges, and the mask that has them made anew.

    Args:
        picture: to grow.
        mask: of the picture.
        margins: pixels to add left, above, right and below.

    Raises:
        GenrefineError: margins that are negative, or too large.
    """
    sides = [whole_number("a margin of outpaint", side) for side in margins]
    if len(sides) != 4 or min(sides) < 0 or not any(sides):
        raise GenrefineError(
            f"outpaint must be four numbers of pixels (left, top, right, bottom), one at least above 0; got {margins}"
        )
    left, top, right, bottom = sides
    if picture.width + left + right > MOST_SIDE or picture.height + top + bottom > MOST_SIDE:
        raise GenrefineError(f"a picture may grow to {MOST_SIDE} pixels a side; got outpaint {tuple(sides)}; add less")
    room = ((top, bottom), (left, right))
    grown = Image.fromarray(np.pad(np.asarray(picture), (*room, (0, 0)), mode="edge"))
    return grown, np.pad(mask, room, constant_values=True)
