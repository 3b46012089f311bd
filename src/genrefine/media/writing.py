"""Picture, animation and clip files, with the settings that made them.

A PNG carries its settings as one JSON text chunk under the key `genrefine`, a film as its comment. Every file is
written beside its place and renamed into it (`genrefine.files`).
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from genrefine.errors import GenrefineError
from genrefine.files import one_line, write_atomically

METADATA_KEY = "genrefine"


def save_png(image: Image.Image, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a PNG that carries `metadata` as one JSON text chunk.

    Raises:
        GenrefineError: the path cannot be written.
    """
    chunks = PngImagePlugin.PngInfo()
    if metadata is not None:
        chunks.add_itxt(METADATA_KEY, json.dumps(metadata))
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=chunks, optimize=True)
    write_atomically(path, content.getvalue())


def read_png_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `save_png` stored beside the picture.

    Raises:
        GenrefineError: the file is no picture, or carries no such chunk.
    """
    try:
        with Image.open(path) as image:
            image.load()
            content = image.info.get(METADATA_KEY)
    except OSError as error:
        raise GenrefineError(f"'{path}' is not a picture that can be read ({one_line(error)})") from error
    if content is None:
        raise GenrefineError(f"'{path}' carries no '{METADATA_KEY}' text chunk; it was not written by genrefine")
    stored: dict[str, Any] = json.loads(content)
    return stored


def save_animation(
    frames: Sequence[Image.Image],
    path: str | os.PathLike[str],
    *,
    frame_milliseconds: int = 120,
    last_frame_milliseconds: int = 2000,
) -> None:
    """Write frames as an endless animation, GIF or lossless WebP by the ending of the path.

    Args:
        frames: pictures of one size.
        path: ends in `.gif` or `.webp`.
        frame_milliseconds: time each frame is shown; GIF rounds it to 10 ms.
        last_frame_milliseconds: time the last frame is held before the animation starts again.

    Raises:
        GenrefineError: no frames, another ending, or a path that cannot be written.
    """
    require_animation_path(path)
    if not frames:
        raise GenrefineError("an animation needs at least one frame; got none")
    durations = [frame_milliseconds] * (len(frames) - 1) + [last_frame_milliseconds]
    write_atomically(path, _animation(frames, Path(path).suffix.lower(), durations, {}))


def _animation(frames: Sequence[Image.Image], suffix: str, durations: list[int], notes: Mapping[str, Any]) -> bytes:
    content = io.BytesIO()
    options: dict[str, Any] = {"save_all": True, "duration": durations, "loop": 0, **notes}
    if suffix == ".gif":
        # One palette per frame without dithering keeps flat areas flat; dither patterns would crawl between frames.
        reduced = [frame.convert("RGB").quantize(256, dither=Image.Dither.NONE) for frame in frames]
        reduced[0].save(content, "GIF", append_images=reduced[1:], **options)
    else:
        full = [frame.convert("RGB") for frame in frames]
        full[0].save(content, "WEBP", append_images=full[1:], lossless=True, method=4, **options)
    return content.getvalue()


def require_animation_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path whose ending names no animation format we write."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".gif", ".webp"):
        raise GenrefineError(f"an animation must end in .gif or .webp; got '{path}'")


CLIP_SUFFIXES = (".mp4", ".webp", ".gif")
FASTEST = {".gif": 50, ".webp": 1000}
"""Frames a second that a format can hold; programs show frames of less than 20 ms in a GIF for 100."""
DURATIONS_KEY = "genrefine_durations"
"""Where a file of ours keeps milliseconds of every frame, grouped by the frames that an encoder merged."""


def save_clip(
    frames: Sequence[Image.Image],
    path: str | os.PathLike[str],
    *,
    frames_per_second: float,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a clip by the ending of the path: MP4 (H.264 where there is an encoder), lossless WebP or GIF, endless.

    MP4 halves the resolution of color and needs even sizes: odd ones gain a copy of their last row or column.

    Args:
        frames: pictures of one size.
        path: ends in `.mp4`, `.webp` or `.gif`.
        frames_per_second: speed, at most 50 in GIF and 1000 in WebP; GIF counts in 10 ms and WebP in 1 ms, rounded so
            that the whole lasts as it should.
        metadata: what made the clip, kept as one JSON text; see `read_clip_metadata`.

    Raises:
        GenrefineError: no frames, frames of different sizes, a speed that is no speed, or a path of another ending or
            that cannot be written.
    """
    require_clip_path(path, frames_per_second)
    if not frames or len({frame.size for frame in frames}) > 1 or not 0 < frames_per_second < float("inf"):
        sizes = ", ".join(sorted({f"{frame.width} x {frame.height}" for frame in frames})) or "no frames"
        raise GenrefineError(
            f"a clip needs frames of one size and a speed; got {sizes} at {frames_per_second} a second"
        )
    suffix = Path(path).suffix.lower()
    if suffix == ".mp4":
        content = _mp4(frames, frames_per_second, None if metadata is None else json.dumps(metadata))
    else:
        unit = 10 if suffix == ".gif" else 1  # milliseconds
        ends = [round(1000 / unit * count / frames_per_second) * unit for count in range(len(frames) + 1)]
        durations = [end - start for start, end in pairwise(ends)]
        content = _animation(frames, suffix, durations, _notes(suffix, metadata))
        merged = _merged(content, durations)
        if len(merged) < len(frames):
            content = _animation(frames, suffix, durations, _notes(suffix, {**(metadata or {}), DURATIONS_KEY: merged}))
    write_atomically(path, content)


def _notes(suffix: str, metadata: Mapping[str, Any] | None) -> dict[str, bytes]:
    return {} if metadata is None else {"comment" if suffix == ".gif" else "xmp": json.dumps(metadata).encode()}


def _merged(content: bytes, durations: Sequence[int]) -> list[list[int]]:
    """Return the durations of the frames that each frame in a file stands for: encoders merge equal neighbours."""
    merged: list[list[int]] = []
    left = list(durations)
    with Image.open(io.BytesIO(content)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            shown = int(image.info.get("duration") or sum(durations))  # a picture alone has none
            count = next((n for n in range(1, len(left) + 1) if sum(left[:n]) >= shown), len(left))
            merged.append(left[:count])
            left = left[count:]
    return merged


def _mp4(frames: Sequence[Image.Image], frames_per_second: float, note: str | None) -> bytes:
    import av

    width, height = (side + side % 2 for side in frames[0].size)
    content = io.BytesIO()
    # Without this option a player keeps no text under a key that the format does not define.
    with av.open(content, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        if note is not None:
            container.metadata[METADATA_KEY] = note
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream: Any = container.add_stream(codec, rate=Fraction(frames_per_second).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "12"} if codec == "libx264" else {"qscale": "2"}
        for frame in frames:
            levels = np.asarray(frame.convert("RGB"))
            even = np.pad(levels, ((0, height - frame.height), (0, width - frame.width), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def read_clip_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `save_clip` stored in an MP4, WebP or GIF.

    Raises:
        GenrefineError: the file is no clip, or carries no such text.
    """
    import av

    require_clip_path(path)
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".mp4":
            with av.open(os.fspath(path)) as container:
                note = container.metadata.get(METADATA_KEY)
        else:
            with Image.open(path) as image:
                note = image.info.get("comment" if suffix == ".gif" else "xmp")
        stored: dict[str, Any] = json.loads(note or b"")
        if not {**stored}.keys() - {DURATIONS_KEY}:
            raise ValueError("the file has none")
    except (OSError, ValueError, TypeError) as error:
        raise GenrefineError(f"'{path}' carries no settings of genrefine ({one_line(error)})") from error
    return {key: value for key, value in stored.items() if key != DURATIONS_KEY}


def require_clip_path(path: str | os.PathLike[str], frames_per_second: float | None = None) -> None:
    """Refuse a path whose ending names no clip format we write, or one that cannot hold the speed."""
    suffix = Path(path).suffix.lower()
    if suffix not in CLIP_SUFFIXES:
        raise GenrefineError(f"a clip must end in .mp4, .webp or .gif; got '{path}'")
    fastest = FASTEST.get(suffix)
    if fastest and frames_per_second and frames_per_second > fastest:
        raise GenrefineError(
            f"a {suffix} holds at most {fastest} frames a second; got {frames_per_second:g}; write '{path}' as .mp4"
        )
