"""`genrefine edit`: change a picture or a clip: paint a part anew, say what it is to show, mend it, let it grow."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrefine.cli.answers import say
from genrefine.cli.generate import brief, carry_out, label_of, names_of
from genrefine.cli.loading import adapt, load_pipeline
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
from genrefine.cli.sample_files import notices, require_apart, require_output
from genrefine.errors import GenrefineError

if TYPE_CHECKING:
    from genrefine.pipelines import ClassPipeline, CodeMap, TextPipeline

_WAYS = ("mask", "old", "mend")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="picture to edit; with --frames also a film")
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what it is to show")
    parser.add_argument("--class-label", metavar="NAME", help="class that it is to show, for models of classes")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what guidance leads away from")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--mask", type=Path, metavar="FILE", help="white where to paint anew, of the picture's size")
    way.add_argument(
        "--from", dest="old", metavar="TEXT", help="what it shows now, a prompt or class: change what differs from it"
    )
    way.add_argument("--mend", action="store_true", help="paint anew what the model finds unlikely")
    parser.add_argument("--threshold", type=float, metavar="NATS", help="of --from and --mend (default: found)")
    parser.add_argument("--map", type=Path, metavar="FILE", help="write the map of --from or --mend as .png")
    parser.add_argument(
        "--strength", type=float, metavar="S", help="0 keeps all, 1 paints from nothing (1 with a mask, else 0.6)"
    )
    parser.add_argument(
        "--outpaint", type=int, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"), help="pixels to add at each side"
    )
    parser.add_argument("--frames", type=int, metavar="N", help="make a clip of N frames that PICTURE begins")
    parser.add_argument("--no-blend", action="store_true", help="show the model's pixels outside the mask, too")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="a .png, of a clip .mp4, .webp or .gif; or a folder",
    )
    parser.add_argument("--num-images", type=int, default=1, metavar="N", help="results, from seeds that follow (1)")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the first result (default: drawn)")
    add_sampling_options(parser)
    parser.add_argument("--film", type=Path, metavar="FILE", help="draw the refinement as .gif or .webp")
    add_batch_option(parser)
    add_json_option(parser)
    add_model_option(parser, default=None, in_words=f"{TEXT_MODEL}; {CLASS_MODEL} for classes")
    add_adapter_options(parser)
    add_device_option(parser)
    add_dtype_option(parser)


def run(options: argparse.Namespace) -> None:
    """Edit the picture."""
    _check(options)
    model = options.model or (CLASS_MODEL if options.class_label else TEXT_MODEL)
    pipeline = load_pipeline(model, options.device, options.dtype)
    adapt(pipeline, options)
    what, words = _what(pipeline, options, model)
    found = _map(pipeline, options, what)
    mask = options.mask if found is None else found.mask(options.threshold)
    arguments: dict[str, Any] = {"num_images_per_prompt": options.num_images, "seed": options.seed, **words}
    arguments |= {"image": options.picture, "mask_image": mask, "strength": options.strength}
    arguments |= {"outpaint": options.outpaint, "blend": not options.no_blend} | sampling_of(options)
    with notices():
        request = pipeline.prepare(what, **arguments)
    notes: dict[str, Any] = {"model": model, "picture": str(options.picture), "settings": request.settings}
    for name in _WAYS:
        if getattr(options, name):
            notes["from" if name == "old" else name] = str(getattr(options, name)) if name != "mend" else True
    if found is not None:
        notes["threshold"] = found.threshold if options.threshold is None else options.threshold
    if options.map and found is not None:
        from genrefine.media.writing import save_png

        save_png(found.picture(), options.map, notes)
    _, seconds, files = carry_out(pipeline, request, options, options.output, notes, None)
    files += [str(options.map)] if options.map else []
    anew = 1 - sum(float(edit.fixed.float().mean()) for edit in request.edits) / len(request.edits)
    name, seed = names_of(request)[0], request.seeds[0]
    say(f"{name}: {anew:.0%} of the codes made anew in {seconds:.1f} s, seed {seed}: {brief(files)}")


def _check(options: argparse.Namespace) -> None:
    """Refuse before any model is loaded what could not be done or written in the end."""
    from genrefine.files import require_writable
    from genrefine.media.writing import require_animation_path

    is_clip = options.frames is not None and options.frames > 1
    if options.prompt and options.class_label:
        raise GenrefineError("PROMPT asks a model of prompts, --class-label one of classes; give one of them")
    if options.strength is not None and not 0 <= options.strength <= 1:
        raise GenrefineError(f"--strength must lie in 0 .. 1; got {options.strength:g}")
    for name in ("threshold", "map"):
        if getattr(options, name) is not None and options.old is None and not options.mend:
            raise GenrefineError(f"--{name} belongs to --from or --mend; give one of them, or leave it out")
    if options.map is not None and options.map.suffix.lower() != ".png":
        raise GenrefineError(f"--map is written as .png; got '{options.map}'")
    if is_clip and (options.old is not None or options.mend):
        raise GenrefineError("--from and --mend look at single pictures; leave --frames out")
    for path in (options.picture, options.mask):
        if path is not None and not path.is_file():
            raise GenrefineError(f"'{path}' is no file; give a picture")
    if options.film:
        require_animation_path(options.film)
    written = {"output": options.output, "json": options.json, "film": options.film, "map": options.map}
    require_apart(**written)
    given = {path.resolve() for path in (options.picture, options.mask) if path is not None}
    for name, path in written.items():
        if path is not None and path.resolve() in given:
            raise GenrefineError(f"--{name} would replace '{path}', which is to be edited with; write to another file")
    require_output(options.output, is_clip)
    for path in (options.film, options.json, options.map):
        if path:
            require_writable(path)
    if options.mask is not None:
        _require_white(options.mask)


def _require_white(path: Path) -> None:
    from genrefine.pipelines.canvas import read_picture

    if max(read_picture(path, "--mask").convert("L").tobytes()) < 128:
        raise GenrefineError(f"the mask '{path}' is all black, so nothing would change; paint white what is to change")


def _what(
    pipeline: "ClassPipeline | TextPipeline", options: argparse.Namespace, model: str
) -> tuple[Any, dict[str, Any]]:
    """Return what is asked for, and the arguments that only one kind of model has."""
    from genrefine.pipelines import ClassPipeline

    if isinstance(pipeline, ClassPipeline):
        for name in ("prompt", "negative_prompt", "frames"):
            if getattr(options, name) is not None:
                raise GenrefineError(f"'{model}' is a model of classes; leave the {name.replace('_', ' ')} out")
        return label_of(options.class_label, pipeline.class_names), {}
    if options.class_label is not None:
        raise GenrefineError(f"'{model}' is a model of prompts, which takes no --class-label; leave it out")
    return options.prompt or "", {"negative_prompt": options.negative_prompt or "", "num_frames": options.frames or 1}


def _map(pipeline: "ClassPipeline | TextPipeline", options: argparse.Namespace, what: Any) -> "CodeMap | None":
    from genrefine.pipelines import ClassPipeline, change_map, surprise_map

    if options.mend:
        return surprise_map(pipeline, options.picture, what)
    if options.old is None:
        return None
    names = pipeline.class_names if isinstance(pipeline, ClassPipeline) else None
    return change_map(pipeline, options.picture, options.old if names is None else label_of(options.old, names), what)
