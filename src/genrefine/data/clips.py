"""Clips with class numbers and captions, from any folder of videos, table, tar shards or Hugging Face data set.

`ClipSource` gives `(pixels, label)`: pixels `3 frames height width` in [-1, 1], label a class number. All clips have
one length and size. `clip_decoding` says which frames of a film a clip takes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genrefine.data.clip_decoding import ClipDecoder
from genrefine.data.decoding import MAX_PIXELS
from genrefine.data.folder import CLIPS
from genrefine.data.source import Source, Values


class ClipSource(Source):
    """Read clips of one length, their classes and captions.

    Args:
        path: as in `ImageSource`, with videos (MP4, WebM, MKV, AVI...) or moving pictures (WebP, GIF, APNG).
        num_frames: frames of a clip.
        size: height and width in pixels, or one number for both: center crop, then antialiased resize; None keeps each
            film's own size. Pixels are taken as square.
        frames_per_second: rate of the clips: frames are repeated or left out. None takes frames as they come.
        segment: "first" starts clips with the film, "middle" takes them from its middle.
        short: what to do with a film that is too short: "raise" counts it as unreadable, "hold" repeats its last frame.
        split: split of a table or subfolder of a folder; see `list_items`.
        video_column: column of a table that holds the films; of tar shards, the kind of file by default.
        label_column, caption_column, keep, drop, class_names, on_error, cache_dir, progress: as in `Source`.
        background: color on which transparent films are flattened.
        max_pixels: films of more pixels a frame count as unreadable; judged by the header, before anything is decoded.

    Raises:
        GenrefineError: nothing there, no clip left, an unknown split, column or class, a clip without a caption.

    Example:
        >>> clips = ClipSource("datasets/emoji-clips", split="pair", caption_column="captions")  # doctest: +SKIP
        >>> clips[0][0].shape, clips.captions[0][0]  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        *,
        num_frames: int = 17,
        size: tuple[int, int] | int | None = 64,
        frames_per_second: float | None = None,
        segment: str = "first",
        short: str = "raise",
        split: str | None = None,
        video_column: str = "video",
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
        self.decoder = ClipDecoder(num_frames, size, frames_per_second, segment, short, background, max_pixels)
        super().__init__(
            path,
            CLIPS,
            video_column,
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

    def frames(self, index: int) -> list[Image.Image]:
        """Return one clip as RGB pictures, flattened, cropped and resized."""
        return self.decoder.frames(self.encoded(index), self.names[index])

    def _decode(self, encoded: Path | bytes, name: str) -> Float[Tensor, "3 frames height width"]:
        return self.decoder.pixels(encoded, name)
