"""Where evaluated pictures come from.

A source is any sized sequence of items; an item is pixels `(3, frames, height, width)` in [-1, 1], or (pixels, label):
the same items that training takes.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from genrefine.errors import GenrefineError


@runtime_checkable
class PictureSource(Protocol):
    """A sized, indexed collection of pixels or of (pixels, label)."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Return one item."""
        ...


class CaptionedSource(PictureSource, Protocol):
    """Pictures or clips with captions and columns, such as `genrefine.data.ImageSource`."""

    captions: list[tuple[str, ...]]

    def column(self, name: str) -> list[Any]:
        """Return one value per item."""
        ...


def pixels_of(item: Any) -> Float[Tensor, "3 frames height width"]:
    """Return the pixels of an item with or without a label."""
    pixels: Tensor = item if isinstance(item, Tensor) else item[0]
    return pixels


def pixel_batches(
    source: PictureSource, batch_size: int, progress: bool, description: str
) -> Iterator[Float[Tensor, "_ 3 _ _ _"]]:
    """Yield the pixels of a source in order, a batch at a time.

    Raises:
        GenrefineError: the source is empty, or its pictures differ in size.
    """
    if len(source) == 0:
        raise GenrefineError(
            "an evaluation needs at least one picture; got an empty source; check the path and the split"
        )
    with tqdm(total=len(source), desc=description, unit="picture", disable=not progress) as bar:
        for start in range(0, len(source), batch_size):
            pixels = [pixels_of(source[index]) for index in range(start, min(start + batch_size, len(source)))]
            sizes = {tuple(one.shape) for one in pixels}
            if len(sizes) > 1:
                raise GenrefineError(
                    f"pictures of one evaluation must have one size; got {sorted(sizes)}; crop them first"
                )
            yield torch.stack(pixels)
            bar.update(len(pixels))


def labels_of(source: PictureSource) -> list[int]:
    """Return the class number of every item.

    Raises:
        GenrefineError: the items have no labels.
    """
    labels = getattr(source, "labels", None)
    if labels is None:
        items = (source[index] for index in range(len(source)))
        labels = [item[1] if isinstance(item, tuple) else None for item in items]
    if any(label is None for label in labels):
        raise GenrefineError("a class-conditional evaluation needs (pixels, label) items; got pixels without a label")
    return [int(label) for label in labels]
