"""`genrefine encode`: pictures or clips to a code store, which a refiner is trained from."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genrefine.cli.answers import say
from genrefine.cli.loading import load_pictures, load_tokenizer
from genrefine.cli.options import (
    add_batch_option,
    add_data_options,
    add_device_option,
    add_model_option,
    parse_pairs,
    positive,
)
from genrefine.errors import GenrefineError

if TYPE_CHECKING:
    from genrefine.data import ClipSource


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    what = "image or video folder, parquet file or folder, tar shards, or data set on the hub"
    parser.add_argument("source", metavar="SOURCE", help=what)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="STORE", help="folder to make")
    parser.add_argument(
        "--size", type=positive, metavar="PIXELS", help="crop and resize to this side (default: as they are)"
    )
    parser.add_argument("--no-flips", action="store_true", help="do not store mirror images too")
    parser.add_argument("--frames", type=positive, metavar="N", help="encode clips of N frames (default: pictures)")
    parser.add_argument(
        "--frames-per-second", type=float, metavar="RATE", help="of the clips (default: frames as they come)"
    )
    parser.add_argument(
        "--segment", choices=("first", "middle"), help="where in a film its clip starts (default: first)"
    )
    parser.add_argument(
        "--short", choices=("raise", "hold"), help="refuse films that are too short, or hold their last frame (raise)"
    )
    parser.add_argument("--video-column", metavar="NAME", help="column of films (video)")
    add_data_options(parser)
    add_batch_option(parser)
    add_model_option(parser, "pipeline or tokenizer folder")
    add_device_option(parser)


def run(options: argparse.Namespace) -> None:
    """Encode every picture or clip once."""
    from tqdm import tqdm

    from genrefine.data import CodeStore
    from genrefine.files import require_writable

    require_writable(options.output / "index.json")
    _refuse_options_of_clips(options)
    tokenizer = load_tokenizer(options.model, options.device)
    source = load_pictures(options.source, options, options.size) if options.frames is None else _load_clips(options)
    with tqdm(total=len(source), desc="encoding", unit=source.kind.singular, disable=None) as bar:
        store = CodeStore.create(
            options.output,
            tokenizer,
            source,
            flips=not options.no_flips,
            batch_size=options.batch_size,
            progress=lambda done, total: bar.update(done - bar.n),
        )
    num_bytes = sum(file.stat().st_size for file in options.output.rglob("*") if file.is_file())
    say(
        f"{len(source)} {source.kind.plural} in {len(source.class_names)} classes, {len(store)} items, "
        f"{num_bytes / 1e6:.2f} MB: {options.output}"
    )


def _refuse_options_of_clips(options: argparse.Namespace) -> None:
    for name in ("frames_per_second", "segment", "short", "video_column"):
        if options.frames is None and getattr(options, name) is not None:
            raise GenrefineError(f"--{name.replace('_', '-')} is for clips; give --frames too, or leave it out")


def _load_clips(options: argparse.Namespace) -> "ClipSource":
    from genrefine.data import ClipSource

    source = ClipSource(
        options.source,
        num_frames=options.frames,
        size=options.size,
        frames_per_second=options.frames_per_second,
        segment=options.segment or "first",
        short=options.short or "raise",
        split=options.split,
        video_column=options.video_column or "video",
        label_column=options.label_column,
        keep=parse_pairs(options.keep, "--keep"),
        drop=parse_pairs(options.drop, "--drop"),
        background=options.background,
        on_error="skip" if options.skip_unreadable else "raise",
    )
    for reason in source.skipped.values():
        sys.stderr.write(f"skipped: {reason}\n")
    return source
