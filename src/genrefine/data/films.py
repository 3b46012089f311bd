"""Films, opened: their frames in order, upright and with their transparency, and when each of them shows.

PyAV reads videos; Pillow reads moving pictures (WebP, GIF, APNG), as FFmpeg up to 8.0 cannot read animated WebP.
"""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genrefine.data.decoding import open_picture
from genrefine.errors import GenrefineError
from genrefine.media.writing import DURATIONS_KEY

MOVING_PICTURES = (b"RIFF", b"GIF8", b"\x89PNG")
CONTAINERS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,ogg,asf,flv"
"""Kinds of files that PyAV may open; others, such as playlists, could name files elsewhere."""
MOST_MERGED = 100_000
"""Frames that a file of merged frames may stand for; more are a forgery."""
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
MILLISECOND = Fraction(1, 1000)


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


@runtime_checkable
class Timed(Protocol):
    """What a clip is cut from: frames in order, and when each of them shows."""

    def shots(self, start: Fraction) -> Iterator[Shot]:
        """Yield the frames in order, from one at or before a time."""
        ...

    def times(self) -> tuple[list[Fraction], Fraction]:
        """Return when each frame begins to show, and the end."""
        ...


class Film:
    """An opened film: `shots` gives its frames in order."""

    def __init__(self, encoded: Path | bytes, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        head = encoded[:4] if isinstance(encoded, bytes) else _head(encoded)
        self.encoded = encoded
        self.is_picture = head in MOVING_PICTURES and not _is_avi(encoded)
        self.tick = MILLISECOND

    def __enter__(self) -> "Film":
        if self.is_picture:
            self.source: Any = open_picture(self.encoded)
            self._check(self.source.width, self.source.height)
            return self
        self._open_video()
        return self

    def _open_video(self) -> None:
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

    def __exit__(self, *error: object) -> None:
        self.source.close()

    def times(self) -> tuple[list[Fraction], Fraction]:
        """Return when each frame begins to show, and the end, in seconds from the first; nothing where not all is told.

        Files tell it without being decoded: frames have times of their own, which neither the length of a file, which
        may count seconds before its first frame, nor its mean rate can stand for.
        """
        if self.is_picture:
            shots = [(shot.start, shot.end) for shot in self.shots(Fraction(0))]
            return [start for start, _ in shots], max((end for _, end in shots), default=Fraction(0))
        packets = [packet for packet in self.source.demux(self.video) if packet.size]
        self.source.close()
        self._open_video()
        if not packets or any(packet.pts is None for packet in packets):
            return [], Fraction(0)
        packets.sort(key=lambda packet: packet.pts)
        first = packets[0].pts
        starts = [(packet.pts - first) * self.tick for packet in packets]
        step = 1 / Fraction(self.video.average_rate or 25)
        return starts, starts[-1] + (packets[-1].duration * self.tick if packets[-1].duration else step)

    def shots(self, start: Fraction) -> Iterator[Shot]:
        """Yield the frames in order, from one at or before a time."""
        return self._shots_of_picture() if self.is_picture else self._shots_of_video(start)

    def _shots_of_picture(self) -> Iterator[Shot]:
        end = Fraction(0)
        merged = self._merged_frames()
        # The default still of an APNG stands before its animation and is for programs that show no animations.
        first = int(getattr(self.source, "default_image", False))
        for number in range(first, getattr(self.source, "n_frames", 1)):
            self.source.seek(number)
            self.source.load()
            shown = [self.source.info.get("duration") or 100]
            for milliseconds in merged[number] if merged else shown:
                start, end = end, end + Fraction(milliseconds) * MILLISECOND
                yield Shot(start, end, self.source.copy)

    def _merged_frames(self) -> list[list[int]]:
        """Return the durations that `media.writing.save_clip` noted where equal frames were merged; else nothing."""
        try:
            note = json.loads(self.source.info.get("comment") or self.source.info.get("xmp") or b"{}")
            merged = note.get(DURATIONS_KEY)
            numbers = [number for group in merged for number in group]
        except (ValueError, AttributeError, TypeError, RecursionError):
            return []
        is_sound = len(merged) == getattr(self.source, "n_frames", 1) and 0 < len(numbers) <= MOST_MERGED
        return merged if is_sound and all(type(number) is int and 0 < number < 10**6 for number in numbers) else []

    def _shots_of_video(self, start: Fraction) -> Iterator[Shot]:
        first = self.video.start_time or 0
        if start:
            self.source.seek(first + int(start / self.tick), stream=self.video)
        step = 1 / Fraction(self.video.average_rate or 25)
        last: Any = None
        begin = Fraction(0)
        for frame in self._decoded():
            self._check(frame.width, frame.height)
            now = begin + step if frame.pts is None else (frame.pts - first) * self.tick
            if last is not None:
                yield Shot(begin, now, partial(_to_image, last))
            begin, last = now, frame
        if last is not None:
            end = begin + (last.duration * self.tick if last.duration else step)
            yield Shot(begin, end, partial(_to_image, last))

    def _decoded(self) -> Iterator[Any]:
        """Decode; transparent VP8 and VP9 need libvpx, as FFmpeg's own decoders drop what is transparent."""
        name = WITH_ALPHA.get(self.video.codec_context.name)
        if self.video.metadata.get("alpha_mode") != "1" or name is None:
            yield from self.source.decode(self.video)
            return
        import av

        decoder: Any = av.CodecContext.create(name, "r")
        for packet in self.source.demux(self.video):
            yield from decoder.decode(packet if packet.size else None)

    def _check(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise GenrefineError(f"has more than {self.max_pixels / 1e6:g} megapixels; reduce it first")


def _to_image(frame: Any) -> Image.Image:
    """Turn a frame upright and keep its transparency."""
    has_alpha = any(component.is_alpha for component in frame.format.components)
    picture = upright(frame.to_ndarray(format="rgba" if has_alpha else "rgb24"), _display_matrix(frame))
    return Image.fromarray(np.ascontiguousarray(picture))


def _display_matrix(frame: Any) -> NDArray[np.int32] | None:
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return None if matrix is None else np.frombuffer(bytes(matrix), dtype="<i4")


def upright(picture: NDArray[np.uint8], matrix: NDArray[np.int32] | None) -> NDArray[np.uint8]:
    """Return a picture, "height width channels", as a display matrix says that it is shown.

    The matrix maps column p and row q to x = a p + c q, y = b p + d q. Eight of them are turns by quarters, with and
    without a mirror, as EXIF has eight; the few films that lie at another angle are left as they are.
    """
    if matrix is None:
        return picture
    a, b, c, d = np.sign(matrix[[0, 1, 3, 4]])
    if a and d and not b and not c:
        return picture[::d, ::a]
    if b and c and not a and not d:
        return picture.swapaxes(0, 1)[::b, ::c]
    return picture


def _head(path: Path, length: int = 4) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(length)


def _is_avi(encoded: Path | bytes) -> bool:
    """Return whether a RIFF file is a video: WebP has the same first bytes."""
    head = encoded[:12] if isinstance(encoded, bytes) else _head(encoded, 12)
    return head[:4] == b"RIFF" and head[8:] != b"WEBP"
