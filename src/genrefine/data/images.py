"""Pictures with class numbers and captions, from any image folder, table, tar shards or Hugging Face data set.

`ImageSource` gives `(pixels, label)`: pixels `3 1 height width` in [-1, 1] (an image is a clip of one frame), label a
class number. `captions` holds what is written of each picture, one tuple of texts each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from genrefine.data.buckets import Buckets
from genrefine.data.decoding import MAX_PIXELS, PictureDecoder
from genrefine.data.folder import PICTURES
from genrefine.data.source import Source, Values


class ImageSource(Source):
    """Read pictures, their classes and captions.

    Args:
        path: an image folder (the class is the folder a picture lies in), a folder with `metadata.jsonl`, a parquet
            file, a folder of parquet files, `.tar` shards (webdataset) or a folder of them, or the name of a data set
            on the Hugging Face Hub.
        size: height and width in pixels, or one number for both: center crop, then antialiased resize; None keeps each
            picture's own size.
        split: split of a table or subfolder of an image folder; see `list_items`.
        image_column: column of a table that holds the pictures; of tar shards, the kind of file by default.
        label_column, caption_column, keep, drop, class_names, on_error, cache_dir, progress: as in `Source`.
        background: color on which transparent pictures are flattened.
        max_pixels: larger pictures count as unreadable; judged by the header, before anything is decoded.

    Raises:
        GenrefineError: nothing there, no picture left, an unknown split, column or class, a picture without a caption.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int] | int | None = None,
        split: str | None = None,
        image_column: str = "image",
        label_column: str | None = None,
        caption_column: Values | None = None,
        keep: Mapping[str, Values] | None = None,
        drop: Mapping[str, Values] | None = None,
        class_names: Sequence[str] | None = None,
        background: str = "white",
        on_error: str = "raise",
        max_pixels: int = MAX_PIXELS,
        cache_dir: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.decoder = PictureDecoder(size, background, max_pixels)
        super().__init__(
            path,
            PICTURES,
            image_column,
            split=split,
            label_column=label_column,
            caption_column=caption_column,
            keep=keep,
            drop=drop,
            class_names=class_names,
            on_error=on_error,
            cache_dir=cache_dir,
            progress=progress,
        )

    def picture(self, index: int) -> Image.Image:
        """Return one picture as RGB, upright, flattened, cropped and resized."""
        return self.decoder.picture(self.encoded(index), self.names[index])

    def original_size(self, index: int) -> tuple[int, int]:
        """Return height and width of one picture as it is stored, upright, see `PictureDecoder.original_size`."""
        return self.decoder.original_size(self.encoded(index), self.names[index])

    def by_bucket(self, buckets: Buckets, budget: str) -> dict[tuple[int, int], "ImageSource"]:
        """Return the pictures of every bucket that has any, resized to cover it and cropped around their center.

        Args:
            buckets: a picture goes to that of the nearest aspect ratio.
            budget: whose buckets these are.

        Returns:
            height and width of a bucket -> its pictures; buckets of equal size are one.

        Raises:
            GenrefineError: a picture cannot be read, or there is no such budget.
        """
        members: dict[tuple[int, int], list[int]] = {(bucket.height, bucket.width): [] for bucket in buckets.entries}
        for index in range(len(self)):
            nearest = buckets.nearest(*self.original_size(index), budget)
            members[nearest.height, nearest.width].append(index)
        parts = {size: self.subset(indices) for size, indices in members.items() if indices}
        for size, part in parts.items():
            part.decoder = replace(self.decoder, size=size)
        return parts

    def _decode(self, encoded: Path | bytes, name: str) -> Float[Tensor, "3 1 height width"]:
        return self.decoder.pixels(encoded, name)


class PixelsOnly(Dataset[Tensor]):
    """Show a source of `(pixels, label)` without the labels, as a tokenizer is trained."""

    def __init__(self, source: Dataset[tuple[Tensor, int]]) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Float[Tensor, "3 frames height width"]:
        """Return the pixels of one picture."""
        return self.source[index][0]

    def name_of(self, index: int) -> str:
        """Return the name of one picture."""
        return str(self.source.name_of(index)) if hasattr(self.source, "name_of") else f"item {index}"
