"""`genrefine generate`: pictures and clips from prompts, pictures from class names."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrefine.cli.answers import say, write_json
from genrefine.cli.loading import adapt, load_class_pipeline, load_pipeline
from genrefine.cli.options import (
    CLASS_MODEL,
    TEXT_MODEL,
    add_adapter_options,
    add_batch_option,
    add_device_option,
    add_dtype_option,
    add_json_option,
    add_model_option,
    add_sampling_options,
    sampling_of,
)
from genrefine.cli.prompts import add_prompt_options, ask, read_prompts
from genrefine.cli.sample_files import (
    Samples,
    default_output,
    is_file,
    notices,
    require_apart,
    require_output,
    save_each,
    save_sheet,
)
from genrefine.errors import GenrefineError
from genrefine.sampling.options import OPTIONS

if TYPE_CHECKING:
    from PIL import Image

    from genrefine.pipelines import ClassPipeline, ClassRequest, TextPipeline, TextRequest

_MOST_FILMED = 9
_SET_IN_MOTION = 17
_OF_PROMPTS = ("prompt", "prompts", "interactive", "negative_prompt", "frames", "first_frame", "height", "width")
_OF_PICTURES = (
    "class_label",
    "output",
    "num_images",
    "seed",
    "film",
    "json",
    "batch_size",
    *_OF_PROMPTS,
    "preset",
    *OPTIONS,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    parser.add_argument(
        "prompt", nargs="*", metavar="PROMPT", help="what to make; several make one picture each; none, anything"
    )
    add_prompt_options(parser)
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what guidance leads away from")
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help=f"1 for a still, more for a clip (default: 1, or {_SET_IN_MOTION} with --first-frame)",
    )
    parser.add_argument("--first-frame", type=Path, metavar="IMG", help="picture to set in motion")
    parser.add_argument("--height", type=int, metavar="PIXELS", help="default: that of the model")
    parser.add_argument("--width", type=int, metavar="PIXELS", help="default: that of the model")
    parser.add_argument(
        "--class-label",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="names or numbers of classes, in place of prompts, for models of classes",
    )
    parser.add_argument("--list-classes", action="store_true", help="print the class names of the model and end")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="a .png, for clips a .mp4, .webp or .gif (several samples become a sheet), or a folder for one file per "
        "sample (default: a file named after the prompt or class and the seed)",
    )
    parser.add_argument("--num-images", type=int, default=1, metavar="N", help="samples per prompt or class (1)")
    parser.add_argument(
        "--seed",
        nargs="+",
        type=int,
        action="extend",
        metavar="S",
        help="seed of the first picture, the others following by ones, or one seed per picture (default: drawn)",
    )
    add_sampling_options(parser)
    parser.add_argument("--film", type=Path, metavar="FILE", help="draw the refinement as .gif or .webp")
    add_batch_option(parser)
    add_json_option(parser)
    add_model_option(parser, default=None, in_words=f"{TEXT_MODEL}; {CLASS_MODEL} for classes")
    add_adapter_options(parser)
    add_device_option(parser)
    add_dtype_option(parser)
    parser.set_defaults(defaults={name: parser.get_default(name) for name in _OF_PICTURES})


def run(options: argparse.Namespace) -> None:
    """Make the pictures."""
    if options.list_classes:
        _list_classes(options)
        return
    if options.prompts is not None:
        options.prompt = read_prompts(options)
    _check(options)
    pipeline = load_pipeline(_model(options), options.device, options.dtype)
    adapt(pipeline, options)
    if options.interactive:

        def make(prompt: str) -> None:
            _make(pipeline, argparse.Namespace(**{**vars(options), "prompt": [prompt]}))

        ask("generate", _model(options), make)
    else:
        _make(pipeline, options)


def _make(pipeline: "ClassPipeline | TextPipeline", options: argparse.Namespace) -> None:
    """Carry out one request."""
    request = _prepare(pipeline, options)
    count, seeds = len(request), request.seeds
    output = options.output or default_output(names_of(request)[0], seeds[0], request.is_clip)
    notes: dict[str, Any] = {"model": _model(options), "settings": request.settings}
    if options.first_frame:
        notes["first_frame"] = str(options.first_frame)
    several = len(options.prompt or options.class_label or [None]) > 1
    columns = options.num_images if several and options.num_images > 1 else None  # one row per prompt or class
    samples, seconds, files = carry_out(pipeline, request, options, output, notes, columns)
    steps = samples.records["num_steps"]
    kind = "clip" if request.is_clip else "picture"
    say(
        f"{count} {kind}{'s' * (count > 1)} in {seconds:.1f} s, {sum(steps) / count:.3g} steps each, "
        f"seed{'s' * (count > 1)} {brief(seeds)}: {brief(files)}"
    )


def carry_out(
    pipeline: "ClassPipeline | TextPipeline",
    request: "ClassRequest | TextRequest",
    options: argparse.Namespace,
    output: Path,
    notes: dict[str, Any],
    columns: int | None,
) -> tuple[Samples, float, list[str]]:
    """Make and write what a request asks for; return the samples, seconds, and paths of the files.

    Args:
        pipeline: makes the samples.
        request: which.
        options: of the command: batch size, adapter, film and JSON.
        output: file or folder.
        notes: kept beside the samples; those of an adapter are added.
        columns: samples per row of a sheet; None for a nearly square one.
    """
    if options.film and len(request) > _MOST_FILMED:
        raise GenrefineError(f"a film shows at most {_MOST_FILMED} pictures; got {len(request)}; ask for fewer")
    require_output(output, request.is_clip, getattr(pipeline, "frames_per_second", None))
    if options.adapter:
        notes["adapter"] = {"folder": str(options.adapter), "scale": options.adapter_scale}
    start, files = time.perf_counter(), [str(output)] if is_file(output) else []

    def came(samples: Samples) -> None:
        if not is_file(output):  # what has come is there, whatever becomes of the rest
            files.extend(save_each(output, samples, notes))

    with notices():
        samples, film = generate(pipeline, request, options.batch_size, options.film is not None, came)
    seconds = time.perf_counter() - start
    if is_file(output):
        save_sheet(output, samples, notes, columns)
    if options.film:
        from genrefine.media.writing import save_animation

        save_animation(film, options.film)
        files.append(str(options.film))
    if options.json:
        write_json(options.json, {**notes, **samples.records, "seconds": round(seconds, 3), "files": files})
    return samples, seconds, files


def generate(
    pipeline: "ClassPipeline | TextPipeline",
    request: "ClassRequest | TextRequest",
    batch_size: int,
    filmed: bool,
    came: Callable[[Samples], None],
) -> "tuple[Samples, list[Image.Image]]":
    """Carry out a request batch by batch, which changes nothing about its samples; with the film if one is wanted.

    Args:
        pipeline: makes the samples.
        request: which.
        batch_size: samples at a time.
        filmed: whether to draw the film.
        came: told after every batch; may take the pictures away.
    """
    from genrefine.pipelines import FilmRecorder, TextRequest
    from genrefine.pipelines.film import draw_film

    of_prompts, names = isinstance(request, TextRequest), names_of(request)
    samples = Samples(
        names,
        getattr(pipeline, "frames_per_second", None) if request.is_clip else None,
        {"prompts" if of_prompts else "class_labels": request.labels, "seeds": request.seeds},
    )
    samples.records |= {name: [] for name in ("num_steps", "num_evaluations", "entropy")}
    captions = [f"{name}   seed {seed}" for name, seed in zip(names, request.seeds, strict=True)]
    panels: list[Any] = []
    for first in range(0, len(request), batch_size):
        rows = slice(first, first + batch_size)
        recorder = FilmRecorder(captions[rows])
        output: Any = pipeline.run(request, rows, **(recorder.arguments if filmed else {}))
        samples.clips += output.frames if request.is_clip else [[image] for image in output.images]
        for name in ("num_steps", "num_evaluations", "entropy"):
            samples.records[name] += getattr(output, name)
        panels += recorder.panels
        came(samples)
    return samples, draw_film(panels) if filmed else []


def names_of(request: "ClassRequest | TextRequest") -> list[str]:
    """Return what to call each sample."""
    from genrefine.pipelines import TextRequest

    nothing = "no prompt" if isinstance(request, TextRequest) else "no class"
    return [label or nothing for label in request.labels]


def _model(options: argparse.Namespace) -> str:
    of_classes = options.class_label or options.list_classes
    return options.model or (CLASS_MODEL if of_classes else TEXT_MODEL)


def _list_classes(options: argparse.Namespace) -> None:
    given = [name for name in _OF_PICTURES if getattr(options, name) not in (options.defaults[name], [])]
    if given:
        raise GenrefineError(f"--list-classes makes no pictures; leave out {_option(given[0])}")
    pipeline = load_class_pipeline(_model(options), options.device, options.dtype)
    adapt(pipeline, options)
    for name in pipeline.class_names:
        say(name)


def _check(options: argparse.Namespace) -> None:
    """Refuse before any model is loaded what could not be done or written in the end."""
    from genrefine.files import require_writable
    from genrefine.media.writing import require_animation_path

    if options.interactive and (options.prompt or (options.output is not None and is_file(options.output))):
        raise GenrefineError("--interactive asks for prompts, a file each; leave PROMPT out, and give a folder")
    if options.class_label:
        _refuse_given(options, _OF_PROMPTS, "--class-label asks a model of classes")
    if any(not prompt.strip() for prompt in options.prompt):
        raise GenrefineError("the prompt is empty; say what to make, or give no prompt at all for anything")
    if options.film:
        require_animation_path(options.film)
    require_apart(output=options.output, json=options.json, film=options.film)
    if options.output is not None:
        require_output(options.output, _frames(options) > 1)
    for path in (options.film, options.json):
        if path:
            require_writable(path)


def _frames(options: argparse.Namespace) -> int:
    if options.frames is not None:
        return int(options.frames)
    return _SET_IN_MOTION if options.first_frame else 1


def _refuse_given(options: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, [], False):
            raise GenrefineError(f"{reason}, which takes no {_option(name)}; leave it out or choose another --model")


def _option(name: str) -> str:
    return "PROMPT" if name == "prompt" else f"--{name.replace('_', '-')}"


def _prepare(pipeline: "ClassPipeline | TextPipeline", options: argparse.Namespace) -> "ClassRequest | TextRequest":
    """Turn the words into a request, refusing those that are for the other kind of model."""
    from genrefine.pipelines import ClassPipeline

    seed = options.seed[0] if options.seed and len(options.seed) == 1 else options.seed
    arguments = {"num_images_per_prompt": options.num_images, "seed": seed} | sampling_of(options)
    if isinstance(pipeline, ClassPipeline):
        _refuse_given(options, _OF_PROMPTS, f"'{_model(options)}' is a model of classes")
        labels = [label_of(word, pipeline.class_names) for word in options.class_label or [None]]
        return pipeline.prepare(labels, **arguments)
    _refuse_given(options, ("class_label",), f"'{_model(options)}' is a model of prompts")
    arguments |= {"negative_prompt": options.negative_prompt or "", "num_frames": _frames(options)}
    arguments |= {"first_frame": options.first_frame, "height": options.height, "width": options.width}
    with notices():
        return pipeline.prepare(options.prompt or None, **arguments)


def label_of(word: str | None, class_names: list[str]) -> int | str | None:
    """Take digits as a class number, unless a class has that name."""
    return int(word) if word is not None and word.isdecimal() and word not in class_names else word


def brief(values: list[Any]) -> str:
    """Return values as a list, the middle of a long one left out."""
    words = [str(value) for value in values]
    return ", ".join(words if len(words) <= 4 else [*words[:3], "...", words[-1]])
