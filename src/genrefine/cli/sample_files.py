"""The files that samples end in: one for all, or one each, with the record of how they came about."""

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrefine.errors import GenrefineError, GenrefineNotice

if TYPE_CHECKING:
    from PIL import Image

CLIP_SUFFIXES = (".mp4", ".webp", ".gif")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_LONGEST_NAME = 60
_SHEET_SIDE = 128


@dataclass
class Samples:
    """Samples as they came.

    Args:
        names: what to call each.
        frames_per_second: of clips; None for pictures.
        records: what to keep of each sample, by name.
        clips: of PIL frames, a picture being a clip of one.
    """

    names: list[str]
    frames_per_second: float | None
    records: dict[str, list[Any]]
    clips: list[list["Image.Image"]] = field(default_factory=list)

    @property
    def is_clip(self) -> bool:
        """Whether they move."""
        return self.frames_per_second is not None


@contextmanager
def notices() -> Iterator[None]:
    """Print what the library gives notice of as lines on standard error, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GenrefineNotice)
        yield
    for text in dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, GenrefineNotice)):
        sys.stderr.write(f"note: {text}\n")
    for one in caught:
        if not issubclass(one.category, GenrefineNotice):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def require_output(output: Path, is_clip: bool, frames_per_second: float | None = None) -> None:
    """Refuse an output that does not fit what is drawn, or cannot be written.

    Raises:
        GenrefineError: a format that we do not write for it, or no permission.
    """
    from genrefine.files import require_writable, require_writable_folder

    suffix = output.suffix.lower()
    if str(output) == "-":
        raise GenrefineError("samples are written to files, not to standard output; give -o FILE or -o FOLDER")
    if is_clip and suffix in _PICTURE_SUFFIXES:
        raise GenrefineError(f"a clip is written as .mp4, .webp or .gif, or into a folder; got '{output}'")
    if not is_clip and suffix != ".png" and suffix in (*_PICTURE_SUFFIXES, *CLIP_SUFFIXES):
        raise GenrefineError(f"pictures are written as .png, which keeps settings and pixels; got '{output}'")
    if is_file(output):
        if is_clip and frames_per_second:
            from genrefine.media.writing import require_clip_path

            require_clip_path(output, frames_per_second)
        require_writable(output)
    elif suffix and not output.is_dir():
        kinds = ".mp4, .webp or .gif" if is_clip else ".png"
        raise GenrefineError(
            f"'{output}' has an ending that is not written; expected {kinds}, or a folder: a new one with a dot in its "
            "name is made first (mkdir)"
        )
    else:
        require_writable_folder(output)


def require_apart(**outputs: Path | None) -> None:
    """Refuse two outputs of one command that are the same file.

    Raises:
        GenrefineError: names the two options.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is not None:
            first = seen.setdefault(path.resolve(), option)
            if first != option:
                raise GenrefineError(f"--{first} and --{option} both write '{path}'; give each a file of its own")


def default_output(name: str, seed: int, is_clip: bool) -> Path:
    """Return a file in the current folder, named after a prompt or class and a seed."""
    return Path(f"{_slug(name)}-seed{seed}{'.mp4' if is_clip else '.png'}")


def is_file(output: Path) -> bool:
    """Return whether an output is one file, in which several samples become a sheet, and no folder."""
    return output.suffix.lower() in (".png", *CLIP_SUFFIXES)


def save_sheet(output: Path, samples: Samples, notes: dict[str, Any], columns: int | None) -> None:
    """Write one file, in which several samples become a sheet.

    Args:
        output: the file.
        samples: what to write.
        notes: kept in the file beside the records of the samples.
        columns: samples per row of a sheet; None for a nearly square one.
    """
    from genrefine.media.sheets import image_grid

    frames = samples.clips[0]
    if len(samples.clips) > 1:
        scale = max(1, _SHEET_SIDE // max(frames[0].size))
        frames = [
            image_grid(moment, columns=columns, labels=samples.names, scale=scale)
            for moment in zip(*samples.clips, strict=True)
        ]
    _write(frames, output, samples, {**notes, **samples.records})


def save_each(folder: Path, samples: Samples, notes: dict[str, Any]) -> list[str]:
    """Write a file for every sample that came since the last call, and let go of its pictures; return the paths."""
    width = len(str(len(samples.names) - 1))
    first = len(samples.records["num_steps"]) - len(samples.clips)
    files = []
    for index, frames in enumerate(samples.clips, first):
        suffix = ".mp4" if samples.is_clip else ".png"
        path = folder / f"{index:0{width}d}-{_slug(samples.names[index])}-seed{samples.records['seeds'][index]}{suffix}"
        _write(frames, path, samples, {**notes, **{key: [values[index]] for key, values in samples.records.items()}})
        files.append(str(path))
    samples.clips.clear()
    return files


def _write(frames: Sequence["Image.Image"], path: Path, samples: Samples, notes: dict[str, Any]) -> None:
    from genrefine.media.writing import save_clip, save_png

    if samples.frames_per_second is not None:
        save_clip(frames, path, frames_per_second=samples.frames_per_second, metadata=notes)
    else:
        save_png(frames[0], path, notes)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-")[:_LONGEST_NAME] or "picture"
