"""Films made on the fly, every frame of a grey that tells its number."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def grey_frames(num_frames: int, height: int = 24, width: int = 32) -> list[Image.Image]:
    """Return frames of one grey each: frame i has the level 4 i."""
    return [Image.new("RGB", (width, height), (4 * i, 4 * i, 4 * i)) for i in range(num_frames)]


def numbers_of(frames: list[Image.Image]) -> list[int]:
    """Return which of `grey_frames` these are."""
    return [round(float(np.asarray(frame).mean()) / 4) for frame in frames]


def video(num_frames: int, rate: Fraction | int = 30, kind: str = "mp4", **size: int) -> bytes:
    """Return `grey_frames` as a video file."""
    codec, container = {
        "mp4": ("libx264", "mp4"),
        "webm": ("libvpx-vp9", "webm"),
        "mkv": ("ffv1", "matroska"),
        "avi": ("rawvideo", "avi"),
    }[kind]
    content = io.BytesIO()
    with av.open(content, "w", format=container) as film:
        frames = grey_frames(num_frames, **size)
        stream = film.add_stream(codec, rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_image(frame)))
        film.mux(stream.encode())
    return content.getvalue()


def moving_picture(num_frames: int, kind: str = "webp", milliseconds: int = 100) -> bytes:
    """Return `grey_frames` as a moving picture."""
    content = io.BytesIO()
    first, *rest = grey_frames(num_frames)
    options = {"lossless": True} if kind == "webp" else {}
    first.save(content, kind, save_all=True, append_images=rest, duration=milliseconds, loop=0, **options)
    return content.getvalue()
