"""From an encoded film of any kind to a clip: `3 frames height width`, float32 in [-1, 1].

Let a film show frame j from the time `s_j` on, s_0 = 0, and end at T. A clip of n frames at f frames a second starts
at a time a and has frame k from the time a + k / f: the last one with `s_j <= a + k / f`, so that frames are repeated
or left out and never mixed. Without f a clip is n neighboring frames. Times are exact fractions, and a millisecond
late counts as in time, as most films round to milliseconds (33, 67, 100 are 30 frames a second).

Films (`genrefine.data.films`) are read one frame at a time, from the last key frame before a to the last frame needed,
and each needed frame is cropped and resized at once: memory is that of the clip and of two frames of the film.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genrefine.data.decoding import MAX_PIXELS, PictureDecoder
from genrefine.data.films import Film, Timed
from genrefine.errors import GenrefineError
from genrefine.media.pixels import from_uint8

SEGMENTS = ("first", "middle")
SHORT = ("raise", "hold")
LATE = Fraction(1, 1000)


@dataclass(frozen=True)
class ClipDecoder:
    """Turn encoded films into clips of one length and size.

    Args:
        num_frames: frames of a clip.
        size: height and width in pixels, or one number for both; see `PictureDecoder`.
        frames_per_second: rate of the clip; None takes frames as they come.
        segment: "first" starts clips with the film, "middle" takes them from its middle.
        short: "raise" refuses films that are too short, "hold" repeats their last frame.
        background: color on which transparent films are flattened.
        max_pixels: largest width x height that is decoded, judged by the header.
    """

    num_frames: int = 17
    size: tuple[int, int] | int | None = 64
    frames_per_second: float | None = None
    segment: str = "first"
    short: str = "raise"
    background: str = "white"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise GenrefineError(f"num_frames must be at least 1; got {self.num_frames}")
        if self.frames_per_second is not None and not 0 < self.frames_per_second <= 1000:
            raise GenrefineError(f"frames_per_second must be more than 0, up to 1000; got {self.frames_per_second}")
        for name, value, allowed in (("segment", self.segment, SEGMENTS), ("short", self.short, SHORT)):
            if value not in allowed:
                raise GenrefineError(f"{name} must be '{allowed[0]}' or '{allowed[1]}'; got '{value}'")
        self.pictures  # noqa: B018 (checks size, background and max_pixels)

    @property
    def pictures(self) -> PictureDecoder:
        """What crops and resizes the frames."""
        return PictureDecoder(self.size, self.background, self.max_pixels)

    def frames(self, encoded: Path | bytes, name: str) -> list[Image.Image]:
        """Decode to RGB pictures of one size.

        Args:
            encoded: a file or the bytes of one.
            name: what the error calls the film.

        Raises:
            GenrefineError: the film is missing, damaged, too large or too short.
        """
        try:
            with Film(encoded, self.max_pixels) as film:
                found = self._choose(film)
        except GenrefineError as error:
            raise GenrefineError(f"clip '{name}' {error}") from None
        except Exception as error:  # FFmpeg's and Pillow's readers raise almost anything on damaged input
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise GenrefineError(f"cannot read clip '{name}' ({reason}); repair or remove it") from error
        missing = self.num_frames - len(found)
        if not found:
            raise GenrefineError(f"cannot read clip '{name}' (it has no frames); repair or remove it")
        if missing and self.short == "raise":
            rate = "" if self.frames_per_second is None else f" at {self.frames_per_second:g} a second"
            raise GenrefineError(
                f"clip '{name}' must have {self.num_frames} frames{rate}; got {len(found)}; leave it out or choose "
                "fewer frames or short='hold'"
            )
        return found + found[-1:] * missing

    def pixels(self, encoded: Path | bytes, name: str) -> Float[Tensor, "3 frames height width"]:
        """Decode to pixels in [-1, 1]; see `frames`."""
        frames = torch.from_numpy(np.stack([np.array(frame) for frame in self.frames(encoded, name)]))
        return from_uint8(frames[None])[0]

    def _choose(self, film: Timed) -> list[Image.Image]:
        """Return the frames of the clip, fewer if the film ends before."""
        start = self._start(film)
        rate = None if self.frames_per_second is None else Fraction(self.frames_per_second).limit_denominator(100_000)
        found: list[Image.Image] = []
        for shot in film.shots(start):
            if shot.end <= start:
                continue
            fitted: Image.Image | None = None
            while len(found) < self.num_frames and (
                fitted is None if rate is None else start + len(found) / rate < shot.end - LATE
            ):
                fitted = fitted or self.pictures.fit(shot.image())
                found.append(fitted)
            if len(found) == self.num_frames:
                break
        return found

    def _start(self, film: Timed) -> Fraction:
        if self.segment == "first":
            return Fraction(0)
        starts, end = film.times()
        if not starts:
            raise GenrefineError("does not say when its frames show; choose segment='first'")
        if self.frames_per_second is None:
            return starts[max(0, (len(starts) - self.num_frames) // 2)]
        needed = self.num_frames / Fraction(self.frames_per_second).limit_denominator(100_000)
        return max(Fraction(0), (end - needed) / 2)
