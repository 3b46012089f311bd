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
from genrefine.cli.prompts import add_prompt_options, ask, read_prompts
from genrefine.cli.sample_files import is_file, notices, require_apart, require_output
from genrefine.errors import GenrefineError

if TYPE_CHECKING:
    from genrefine.pipelines import ClassPipeline, CodeMap, TextPipeline

VARIED = ("entropy", "random")
_WAYS = ("mask", "old", "mend", "vary", "by")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="picture to edit; with --frames also a film")
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="what it is to show; several make one result each")
    add_prompt_options(parser)
    parser.add_argument("--class-label", metavar="NAME", help="class that it is to show, for models of classes")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what guidance leads away from")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--mask", type=Path, metavar="FILE", help="white where to paint anew, of the picture's size")
    way.add_argument(
        "--from", dest="old", metavar="TEXT", help="what it shows now, a prompt or class: change what differs from it"
    )
    way.add_argument("--mend", action="store_true", help="paint anew what the model finds unlikely")
    way.add_argument("--vary", type=float, metavar="SHARE", help="paint a share of the codes anew: a variation")
    parser.add_argument(
        "--by", choices=VARIED, help="of --vary: which codes, the most open ones or any (default: entropy)"
    )
    parser.add_argument("--threshold", type=float, metavar="NATS", help="of --from and --mend (default: found)")
    parser.add_argument("--map", type=Path, metavar="FILE", help="write the map of --from, --mend or --vary as .png")
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
    if options.prompts is not None:
        options.prompt = read_prompts(options)
    _check(options)
    model = options.model or (CLASS_MODEL if options.class_label else TEXT_MODEL)
    pipeline = load_pipeline(model, options.device, options.dtype)
    adapt(pipeline, options)
    _refuse_other_kind(pipeline, options, model)
    if options.interactive:

        def make(prompt: str) -> None:
            _edit(pipeline, argparse.Namespace(**{**vars(options), "prompt": [prompt]}), model)

        ask("edit", model, make)
    else:
        _edit(pipeline, options, model)


def _edit(pipeline: "ClassPipeline | TextPipeline", options: argparse.Namespace, model: str) -> None:
    """Carry out one request: a result per prompt and seed."""
    from genrefine.pipelines import ClassPipeline

    if isinstance(pipeline, ClassPipeline):
        whats: list[Any] = [label_of(options.class_label, pipeline.class_names)]
        size = {}
        arguments: dict[str, Any] = {}
    else:
        whats = options.prompt or [""]
        size = {"num_frames": options.frames or 1}
        arguments = {"negative_prompt": options.negative_prompt or "", **size}
    arguments |= {"num_images_per_prompt": options.num_images, "seed": options.seed}
    arguments |= {"strength": options.strength, "outpaint": options.outpaint, "blend": not options.no_blend}
    found = [one for what in whats if (one := _map(pipeline, options, what, size)) is not None]
    masks: Any = [_mask_of(one, options) for one in found] or options.mask
    if found and (options.frames or 1) > 1:
        masks = masks[0]  # one for every frame
    with notices():
        request = pipeline.prepare(whats, image=options.picture, mask_image=masks, **arguments, **sampling_of(options))
    notes: dict[str, Any] = {"model": model, "picture": str(options.picture), "settings": request.settings}
    for name in _WAYS:
        if (given := getattr(options, name)) not in (None, False):
            notes["from" if name == "old" else name] = str(given) if isinstance(given, Path) else given
    if found and options.vary is None:
        thresholds = [one.threshold if options.threshold is None else options.threshold for one in found]
        notes["threshold"] = thresholds[0] if len(thresholds) == 1 else thresholds
    if options.map and found:
        _save_maps(options.map, found, notes)
    columns = options.num_images if len(whats) > 1 and options.num_images > 1 else None
    _, seconds, files = carry_out(pipeline, request, options, options.output, notes, columns)
    files += [str(options.map)] if options.map else []
    anew = 1 - sum(float(edit.fixed.float().mean()) for edit in request.edits) / len(request.edits)
    seeds = f"seed{'s' * (len(request) > 1)} {brief(request.seeds)}"
    say(f"{brief(names_of(request))}: {anew:.0%} of the codes made anew in {seconds:.1f} s, {seeds}: {brief(files)}")


def _check(options: argparse.Namespace) -> None:
    """Refuse before any model is loaded what could not be done or written in the end."""
    from genrefine.files import require_writable
    from genrefine.media.writing import require_animation_path

    if options.interactive and (options.prompt or is_file(options.output)):
        raise GenrefineError("--interactive asks for prompts, a file each; leave PROMPT out, and give a folder")
    if options.prompt and options.class_label:
        raise GenrefineError("PROMPT asks a model of prompts, --class-label one of classes; give one of them")
    if any(not prompt.strip() for prompt in options.prompt):
        raise GenrefineError("the prompt is empty; say what it is to show, or give no prompt at all")
    if options.vary is not None and not 0 < options.vary <= 1:
        raise GenrefineError(f"--vary is the share of codes to paint anew, above 0 and up to 1; got {options.vary:g}")
    is_clip = options.frames is not None and options.frames > 1
    if is_clip and len(options.prompt) > 1 and (options.old is not None or options.mend or options.vary is not None):
        raise GenrefineError("a clip is mended, varied or changed --from for one prompt at a time; give one")
    if options.by is not None and options.vary is None:
        raise GenrefineError("--by says which codes --vary paints anew; give --vary SHARE, or leave it out")
    if options.strength is not None and not 0 <= options.strength <= 1:
        raise GenrefineError(f"--strength must lie in 0 .. 1; got {options.strength:g}")
    if options.threshold is not None and options.old is None and not options.mend:
        raise GenrefineError("--threshold belongs to --from or --mend; give one of them, or leave it out")
    if options.map is not None and options.old is None and not options.mend and options.vary is None:
        raise GenrefineError("--map belongs to --from, --mend or --vary; give one of them, or leave it out")
    if options.map is not None and options.map.suffix.lower() != ".png":
        raise GenrefineError(f"--map is written as .png; got '{options.map}'")
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


def _refuse_other_kind(pipeline: "ClassPipeline | TextPipeline", options: argparse.Namespace, model: str) -> None:
    """Refuse words that only the other kind of model understands."""
    from genrefine.pipelines import ClassPipeline

    if isinstance(pipeline, ClassPipeline):
        for name in ("prompt", "interactive", "negative_prompt", "frames"):
            if getattr(options, name) not in (None, [], False):
                raise GenrefineError(f"'{model}' is a model of classes; leave the {name.replace('_', ' ')} out")
    elif options.class_label is not None:
        raise GenrefineError(f"'{model}' is a model of prompts, which takes no --class-label; leave it out")


def _map(
    pipeline: "ClassPipeline | TextPipeline", options: argparse.Namespace, what: Any, size: dict[str, Any]
) -> "CodeMap | None":
    """Return the map that says what is to be made anew; None where nothing asks for one."""
    from genrefine.pipelines import ClassPipeline, change_map, entropy_map, random_map, surprise_map

    if options.mend:
        return surprise_map(pipeline, options.picture, what, **size)
    if options.vary is not None and options.by == "random":
        return random_map(pipeline, options.picture, 0 if options.seed is None else options.seed, **size)
    if options.vary is not None:
        return entropy_map(pipeline, options.picture, what, **size)
    if options.old is None:
        return None
    names = pipeline.class_names if isinstance(pipeline, ClassPipeline) else None
    old = options.old if names is None else label_of(options.old, names)
    return change_map(pipeline, options.picture, old, what, **size)


def _mask_of(found: "CodeMap", options: argparse.Namespace) -> Any:
    return found.mask(options.threshold) if options.vary is None else found.mask(share=options.vary, grow=0)


def _save_maps(path: Path, found: "list[CodeMap]", notes: dict[str, Any]) -> None:
    """Write one map, or those of several prompts and frames as a sheet, one row per prompt."""
    from genrefine.media.sheets import image_grid
    from genrefine.media.writing import save_png

    rows = [shown if isinstance(shown := one.picture(), list) else [shown] for one in found]
    pictures = [picture for row in rows for picture in row]
    save_png(pictures[0] if len(pictures) == 1 else image_grid(pictures, columns=len(rows[0])), path, notes)
