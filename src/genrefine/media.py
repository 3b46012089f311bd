"""Pictures in and out: tensors in [-1, 1], uint8 frames, PIL pictures, PNG and animation files, contact sheets.

Symbols: `pixels` are `(batch, 3, frames, height, width)` floats in [-1, 1]; `frames` are
`(batch, frames, height, width, 3)` bytes, the layout of PIL and of video decoders. Only this module and `data` add
or drop the frame axis: a picture is a clip of one frame.

Every file is written to a temporary neighbor and renamed into place, so that an interrupted run leaves the old file or
the new one and never half of one. A PNG carries the settings that made it as one JSON text chunk under the key
`genrefine`.
"""

import contextlib
import io
import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from genrefine.errors import GenrefineError

PAPER = (250, 249, 246)
INK = (45, 48, 56)
METADATA_KEY = "genrefine"


def to_uint8(pixels: Float[Tensor, "batch 3 frames height width"]) -> UInt8[Tensor, "batch frames height width 3"]:
    """Round pixels in [-1, 1] to bytes, clipping what lies outside.

    Args:
        pixels: any float dtype; -1 is black, 1 is white.

    Returns:
        Bytes on the CPU with colors last: `round(clip((x + 1) / 2 * 255, 0, 255))`.
    """
    levels = ((pixels.detach().float() + 1) / 2 * 255).clamp(0, 255).round()
    return levels.permute(0, 2, 3, 4, 1).to("cpu", torch.uint8).contiguous()


def from_uint8(frames: UInt8[Tensor, "batch frames height width 3"]) -> Float[Tensor, "batch 3 frames height width"]:
    """Map bytes to float32 pixels in [-1, 1]; `to_uint8` returns exactly the same bytes."""
    return (frames.permute(0, 4, 1, 2, 3).float() / 255 * 2 - 1).contiguous()


def to_pil(pixels: Float[Tensor, "batch 3 1 height width"]) -> list[Image.Image]:
    """Turn clips of one frame into PIL pictures."""
    return [Image.fromarray(frames[0].numpy()) for frames in to_uint8(pixels)]


def to_pil_clips(pixels: Float[Tensor, "batch 3 frames height width"]) -> list[list[Image.Image]]:
    """Turn clips into lists of PIL frames."""
    return [[Image.fromarray(frame.numpy()) for frame in frames] for frames in to_uint8(pixels)]


def from_pil(picture: Image.Image) -> Float[Tensor, "1 3 1 height width"]:
    """Turn an opaque PIL picture of any mode into a clip of one frame."""
    content = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return from_uint8(content.reshape(1, 1, picture.height, picture.width, 3))


def caption_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of captions at a height in pixels; it comes with PIL, so no system font is needed."""
    return ImageFont.load_default(size=size)


def image_grid(
    images: Sequence[Image.Image],
    *,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    scale: int = 1,
    gap: int = 8,
) -> Image.Image:
    """Lay pictures out as a contact sheet on a quiet background.

    Args:
        images: pictures; smaller ones are centered in cells of the largest size.
        columns: pictures per row; default is the nearest to a square sheet.
        labels: one caption below each picture, broken at slashes and spaces to fit.
        scale: whole factor by which pictures are enlarged, without smoothing.
        gap: pixels between and around cells.

    Raises:
        GenrefineError: no pictures, a number of labels that differs from theirs, or a factor below 1.
    """
    if not images:
        raise GenrefineError("a grid needs at least one picture; got none")
    if labels is not None and len(labels) != len(images):
        raise GenrefineError(f"a grid needs one label per picture; got {len(labels)} for {len(images)} pictures")
    if scale < 1 or (columns is not None and columns < 1):
        raise GenrefineError(f"scale and columns must be at least 1; got {scale} and {columns}")
    columns = min(columns or _square_columns(len(images)), len(images))
    rows = -(-len(images) // columns)
    width = max(image.width for image in images) * scale
    height = max(image.height for image in images) * scale
    font = caption_font(max(10, min(15, width // 10)))
    captions = [_wrap(label, font, width) for label in labels] if labels is not None else []
    line_height = round(_height(font) * 1.25)
    caption_height = max((len(lines) for lines in captions), default=0) * line_height
    caption_height += gap // 2 if captions else 0
    step_x, step_y = width + gap, height + caption_height + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left, top = gap + index % columns * step_x, gap + index // columns * step_y
        enlarged = enlarge(image.convert("RGB"), scale)
        sheet.paste(enlarged, (left + (width - enlarged.width) // 2, top + (height - enlarged.height) // 2))
        for number, line in enumerate(captions[index] if captions else ()):
            place = (left + width / 2, top + height + gap // 2 + number * line_height)
            draw.text(place, line, INK, font, anchor="ma")
    return sheet


def enlarge(image: Image.Image, scale: int) -> Image.Image:
    """Repeat every pixel `scale` times in both directions."""
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


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
        raise GenrefineError(f"'{path}' is not a picture that can be read ({_one_line(error)})") from error
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
        frames_per_second: speed; GIF counts in 10 ms and WebP in 1 ms, rounded so that the whole lasts as it should.
        metadata: what made the clip, kept as one JSON text; see `read_clip_metadata`.

    Raises:
        GenrefineError: no frames, frames of different sizes, a speed that is no speed, or a path of another ending or
            that cannot be written.
    """
    require_clip_path(path)
    if not frames or len({frame.size for frame in frames}) > 1 or not 0 < frames_per_second < float("inf"):
        sizes = ", ".join(sorted({f"{frame.width} x {frame.height}" for frame in frames})) or "no frames"
        raise GenrefineError(
            f"a clip needs frames of one size and a speed; got {sizes} at {frames_per_second} a second"
        )
    suffix, note = Path(path).suffix.lower(), None if metadata is None else json.dumps(metadata)
    if suffix == ".mp4":
        content = _mp4(frames, frames_per_second, note)
    else:
        unit = 10 if suffix == ".gif" else 1  # milliseconds
        ends = [round(1000 / unit * count / frames_per_second) * unit for count in range(len(frames) + 1)]
        durations = [end - start for start, end in pairwise(ends)]
        notes = {} if note is None else {"comment" if suffix == ".gif" else "xmp": note.encode()}
        content = _animation(frames, suffix, durations, notes)
    write_atomically(path, content)


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
    except (OSError, ValueError) as error:
        raise GenrefineError(f"'{path}' carries no settings of genrefine ({_one_line(error)})") from error
    return stored


def require_clip_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path whose ending names no clip format we write."""
    if Path(path).suffix.lower() not in CLIP_SUFFIXES:
        raise GenrefineError(f"a clip must end in .mp4, .webp or .gif; got '{path}'")


def require_writable(path: str | os.PathLike[str]) -> None:
    """Create the parent folders of a file to come and prove that it can be written there.

    Long work calls this first, so that an hour of computing never ends at a closed door.

    Raises:
        GenrefineError: the path is a folder, or its parent cannot be made or written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:40]}."):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def require_writable_folder(path: str | os.PathLike[str]) -> None:
    """Create a folder and prove that files can be written in it.

    Raises:
        GenrefineError: it cannot be made, is a file, or refuses new files.
    """
    require_writable(Path(path) / "new")


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file or nothing: temporary neighbor, flush to disk, rename.

    Raises:
        GenrefineError: the path cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _unwritable(path, error) from error


def _unwritable(path: str | os.PathLike[str], error: OSError) -> GenrefineError:
    reason = error.strerror or _one_line(error)
    return GenrefineError(f"cannot write '{path}' ({reason}); choose another output path")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _square_columns(count: int) -> int:
    columns = 1
    while columns * columns < count:
        columns += 1
    return columns


def _height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> float:
    return float(font.getbbox("Ag")[3])


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a caption after slashes and spaces so that its lines fit; a word too long for a line is cut short."""
    words = text.replace("/", "/ ").split()
    lines: list[str] = []
    for word in words:
        joined = lines[-1] + ("" if lines[-1].endswith("/") else " ") + word if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return [_shorten(line, font, width) for line in lines]


def _shorten(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while len(line) > 1 and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
