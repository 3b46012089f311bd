"""From an encoded film of any kind to a clip: `3 frames height width`, float32 in [-1, 1].

Let a film show frame j from the time `s_j` on, s_0 = 0, and end at T. A clip of n frames at f frames a second starts
at a time a and has frame k from the time a + k / f: the last one with `s_j <= a + k / f`, so that frames are repeated
or left out and never mixed. Without f a clip is n neighboring frames. Times are exact fractions, and a millisecond
late counts as in time, as most films round to milliseconds (33, 67, 100 are 30 frames a second).

Films are read one frame at a time, from the last key frame before a to the last frame needed, and each needed frame is
cropped and resized at once: memory is that of the clip and of two frames of the film. PyAV reads videos; Pillow reads
moving pictures (WebP, GIF, APNG), as FFmpeg up to 8.0 cannot read animated WebP.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genrefine.data.decoding import MAX_PIXELS, PictureDecoder, open_picture
from genrefine.errors import GenrefineError
from genrefine.media.pixels import from_uint8

SEGMENTS = ("first", "middle")
SHORT = ("raise", "hold")
MOVING_PICTURES = (b"RIFF", b"GIF8", b"\x89PNG")
CONTAINERS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,ogg,asf,flv"
"""Kinds of files that PyAV may open; others, such as playlists, could name files elsewhere."""
MILLISECOND = LATE = Fraction(1, 1000)


@dataclass(frozen=True)
class Shot:
    """One decoded frame of a film.

    Args:
        start, end: seconds from the start of the film between which it shows.
        image: gives it as decoded; to be called before the next one is asked for.
    """

    start: Fraction
    end: Fraction
    image: Callable[[], Image.Image]


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
            with _Film(encoded, self.max_pixels) as film:
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

    def _choose(self, film: "_Film") -> list[Image.Image]:
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

    def _start(self, film: "_Film") -> Fraction:
        if self.segment == "first":
            return Fraction(0)
        rate = self.frames_per_second or film.rate
        if not film.duration or not rate:
            raise GenrefineError("does not say how long it is; choose segment='first'")
        needed = self.num_frames / Fraction(rate).limit_denominator(100_000)
        return max(Fraction(0), (film.duration - needed) / 2)


class _Film:
    """An opened film: `shots` gives its frames in order."""

    def __init__(self, encoded: Path | bytes, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        head = encoded[:4] if isinstance(encoded, bytes) else _head(encoded)
        self.encoded = encoded
        self.is_picture = head in MOVING_PICTURES and not _is_avi(encoded)
        self.tick = MILLISECOND

    def __enter__(self) -> "_Film":
        if self.is_picture:
            self.source: Any = open_picture(self.encoded)
            self._check(self.source.width, self.source.height)
            return self
        import av

        stream = io.BytesIO(self.encoded) if isinstance(self.encoded, bytes) else str(self.encoded)
        self.source = av.open(stream, options={"format_whitelist": CONTAINERS})
        if not self.source.streams.video:
            self.source.close()
            raise GenrefineError("holds no pictures; leave it out")
        self.video = self.source.streams.video[0]
        self.video.codec_context.thread_count = 1  # workers read in parallel, each its own film
        self.tick = self.video.time_base or MILLISECOND
        try:
            self._check(self.video.codec_context.width, self.video.codec_context.height)
        except GenrefineError:
            self.source.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.source.close()

    @property
    def duration(self) -> Fraction:
        """Seconds, 0 where unknown."""
        if self.is_picture:
            return max((shot.end for shot in self.shots(Fraction(0))), default=Fraction(0))
        if self.video.duration is not None:
            return self.video.duration * self.video.time_base
        return Fraction(self.source.duration or 0, 1_000_000)

    @property
    def rate(self) -> Fraction:
        """Frames a second, 0 where unknown."""
        if self.is_picture:
            return Fraction(getattr(self.source, "n_frames", 1)) / max(self.duration, MILLISECOND)
        return Fraction(self.video.average_rate or 0)

    def shots(self, start: Fraction) -> Iterator[Shot]:
        """Yield the frames in order, from one at or before a time."""
        return self._shots_of_picture() if self.is_picture else self._shots_of_video(start)

    def _shots_of_picture(self) -> Iterator[Shot]:
        end = Fraction(0)
        for number in range(getattr(self.source, "n_frames", 1)):
            self.source.seek(number)
            self.source.load()
            start, end = end, end + Fraction(self.source.info.get("duration") or 100) * MILLISECOND
            yield Shot(start, end, self.source.copy)

    def _shots_of_video(self, start: Fraction) -> Iterator[Shot]:
        first = self.video.start_time or 0
        if start:
            self.source.seek(first + int(start / self.tick), stream=self.video)
        step = 1 / Fraction(self.video.average_rate or 25)
        last: Any = None
        begin = Fraction(0)
        for frame in self.source.decode(self.video):
            self._check(frame.width, frame.height)
            now = begin + step if frame.pts is None else (frame.pts - first) * self.tick
            if last is not None:
                yield Shot(begin, now, partial(_to_image, last))
            begin, last = now, frame
        if last is not None:
            end = begin + (last.duration * self.tick if last.duration else step)
            yield Shot(begin, end, partial(_to_image, last))

    def _check(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise GenrefineError(f"has more than {self.max_pixels / 1e6:g} megapixels; reduce it first")


def _to_image(frame: Any) -> Image.Image:
    """Turn a frame upright and keep its transparency."""
    has_alpha = any(component.is_alpha for component in frame.format.components)
    image = Image.fromarray(frame.to_ndarray(format="rgba" if has_alpha else "rgb24"))
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _head(path: Path, length: int = 4) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(length)


def _is_avi(encoded: Path | bytes) -> bool:
    """Return whether a RIFF file is a video: WebP has the same first bytes."""
    head = encoded[:12] if isinstance(encoded, bytes) else _head(encoded, 12)
    return head[:4] == b"RIFF" and head[8:] != b"WEBP"
