"""What `genrefine generate` does with a request: samples batch by batch, and the files they end in."""

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

    from genrefine.pipelines import ClassPipeline, TextPipeline

PER_SAMPLE = ("seeds", "num_steps", "num_evaluations", "entropy")
CLIP_SUFFIXES = (".mp4", ".webp", ".gif")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_LONGEST_NAME = 60
_SHEET_SIDE = 128


@dataclass
class Request:
    """Samples to draw.

    Args:
        pipeline: of either kind.
        told: class name or prompt of each sample, None for none.
        seeds: of each sample.
        arguments: the same for all samples: sampling, sizes, a first frame.
        settings: the same with the defaults of the model, for the records.
    """

    pipeline: "ClassPipeline | TextPipeline"
    told: list[str | None]
    seeds: list[int]
    arguments: dict[str, Any]
    settings: dict[str, Any]

    @property
    def told_as(self) -> str:
        """The word for what samples are told, which is a field of the pipeline's output."""
        from genrefine.pipelines import TextPipeline

        return "prompts" if isinstance(self.pipeline, TextPipeline) else "class_labels"

    @property
    def is_clip(self) -> bool:
        """Whether the samples move."""
        return bool(self.settings.get("num_frames", 1) > 1)

    @property
    def names(self) -> list[str]:
        """What to call each sample."""
        nothing = "no prompt" if self.told_as == "prompts" else "no class"
        return [told or nothing for told in self.told]


@dataclass
class Drawn:
    """Samples as they came: clips of PIL frames, a picture being a clip of one, with one record per sample."""

    records: dict[str, list[Any]]
    clips: list[list["Image.Image"]] = field(default_factory=list)
    film: list["Image.Image"] = field(default_factory=list)


def draw(request: Request, batch_size: int, filmed: bool) -> Drawn:
    """Draw samples batch by batch, which changes nothing about them, and the film if one is asked for."""
    from genrefine.pipelines import FilmRecorder
    from genrefine.pipelines.film import draw_film

    pipeline: Any = request.pipeline
    drawn = Drawn({name: [] for name in (request.told_as, *PER_SAMPLE)})
    panels: list[Any] = []
    for first in range(0, len(request.seeds), batch_size):
        rows = slice(first, first + batch_size)
        told, seeds = request.told[rows], request.seeds[rows]
        recorder = FilmRecorder(
            [f"{name}   seed {seed}" for name, seed in zip(request.names[rows], seeds, strict=True)]
        )
        watching = recorder.arguments if filmed else {}
        prompts = [one or "" for one in told] if request.told_as == "prompts" else told
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GenrefineNotice)  # the plan gave notice already
            output = pipeline(prompts, seed=seeds, **request.arguments, **watching)
        drawn.clips += output.frames if request.is_clip else [[image] for image in output.images]
        drawn.records[request.told_as] += told
        for name in PER_SAMPLE:
            drawn.records[name] += getattr(output, name)
        panels += recorder.panels
    drawn.film = draw_film(panels) if filmed else []
    return drawn


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


def require_output(output: Path, is_clip: bool) -> None:
    """Refuse an output that does not fit what is drawn, or cannot be written.

    Raises:
        GenrefineError: a format that we do not write for it, or no permission.
    """
    from genrefine.files import require_writable, require_writable_folder

    suffix = output.suffix.lower()
    if is_clip and suffix in _PICTURE_SUFFIXES:
        raise GenrefineError(f"a clip is written as .mp4, .webp or .gif, or into a folder; got '{output}'")
    if not is_clip and suffix != ".png" and suffix in (*_PICTURE_SUFFIXES, *CLIP_SUFFIXES):
        raise GenrefineError(f"pictures are written as .png, which keeps settings and pixels; got '{output}'")
    if suffix in (".png", *CLIP_SUFFIXES):
        require_writable(output)
    else:
        require_writable_folder(output)


def default_output(request: Request) -> Path:
    """Return a file in the current folder, named after the first prompt or class and the first seed."""
    return Path(f"{_slug(request.names[0])}-seed{request.seeds[0]}{'.mp4' if request.is_clip else '.png'}")


def save(output: Path, drawn: Drawn, request: Request, notes: dict[str, Any], columns: int | None) -> list[str]:
    """Write one file, in which several samples become a sheet, or one per sample into a folder; return the paths.

    Args:
        output: file or folder.
        drawn: samples.
        request: what they were drawn for.
        notes: kept in every file beside the records of its samples.
        columns: samples per row of a sheet; None for a nearly square one.
    """
    from genrefine.media.sheets import image_grid

    if output.suffix.lower() in (".png", *CLIP_SUFFIXES):
        frames = drawn.clips[0]
        if len(drawn.clips) > 1:
            scale = max(1, _SHEET_SIDE // max(frames[0].size))
            frames = [
                image_grid(moment, columns=columns, labels=request.names, scale=scale)
                for moment in zip(*drawn.clips, strict=True)
            ]
        _write(frames, output, request, {**notes, **drawn.records})
        return [str(output)]
    width = len(str(len(drawn.clips) - 1))
    files = []
    for index, (frames, name) in enumerate(zip(drawn.clips, request.names, strict=True)):
        suffix = ".mp4" if request.is_clip else ".png"
        path = output / f"{index:0{width}d}-{_slug(name)}-seed{request.seeds[index]}{suffix}"
        _write(frames, path, request, {**notes, **{key: [values[index]] for key, values in drawn.records.items()}})
        files.append(str(path))
    return files


def _write(frames: Sequence["Image.Image"], path: Path, request: Request, notes: dict[str, Any]) -> None:
    from genrefine.media.writing import save_clip, save_png
    from genrefine.pipelines import TextPipeline

    if isinstance(request.pipeline, TextPipeline) and request.is_clip:
        save_clip(frames, path, frames_per_second=request.pipeline.frames_per_second, metadata=notes)
    else:
        save_png(frames[0], path, notes)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-")[:_LONGEST_NAME] or "picture"
