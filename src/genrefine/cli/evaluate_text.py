"""`genrefine evaluate prompts` and `clips`: what a text model makes of captions, beside the real pictures and clips."""

import argparse
import sys
from pathlib import Path
from typing import Any

from genrefine.cli.answers import say
from genrefine.cli.loading import adapt, find_model, load_pictures, quiet_libraries, torch_device, torch_dtype
from genrefine.cli.options import parse_pairs, positive, sampling_of
from genrefine.cli.scores import load_extractor, say_scores


def add_prompt_options(parser: argparse.ArgumentParser) -> None:
    """Describe what only pictures of prompts have."""
    parser.add_argument("--num-prompts", type=int, default=500, metavar="N", help="captions to draw (500)")
    parser.add_argument(
        "--gallery-splits", nargs="+", default=[], metavar="NAME", help="splits whose pictures may be nearest too"
    )
    parser.add_argument("--caption-column", default="captions", metavar="NAME", help="column of captions (captions)")
    parser.add_argument("--concept-column", default="concept", metavar="NAME", help="column of concepts (concept)")
    parser.add_argument("--style-column", default="style", metavar="NAME", help="column of styles (style)")
    parser.add_argument("--group-column", default="", metavar="NAME", help="column of groups to report one by one")


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """Describe what only clips have."""
    parser.add_argument("--num-prompts", type=int, default=100, metavar="N", help="captions to draw (100)")
    parser.add_argument("--frames", type=positive, default=17, metavar="N", help="frames of a clip (17)")
    parser.add_argument(
        "--clip-extractor",
        type=Path,
        metavar="FILE",
        help="network for whole clips, such as i3d_torchscript.pt, a program that you trust: Frechet video distance",
    )
    parser.add_argument("--first-frames", action="store_true", help="give the first frames of the real clips too")
    parser.add_argument("--caption-column", default="captions", metavar="NAME", help="column of captions (captions)")


def add_suite_options(parser: argparse.ArgumentParser) -> None:
    """Describe what only benchmarks have."""
    parser.add_argument("suite", type=Path, metavar="FILE", help="prompts of the benchmark; for dpg their folder")
    parser.add_argument(
        "--layout", required=True, metavar="NAME", help="how its scorer reads samples: geneval, dpg or vbench"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the samples")
    parser.add_argument(
        "--num-images", type=positive, metavar="N", help="samples of each prompt (as the scorer expects: 4, 4, 5)"
    )
    parser.add_argument("--frames", type=positive, default=1, metavar="N", help="frames of a clip, for vbench")


def draw_suite(options: argparse.Namespace) -> None:
    """Draw the prompts of a benchmark into the folders that its scorer reads."""
    from genrefine.evaluation import suites
    from genrefine.files import require_writable_folder

    suite = suites.read_suite(options.layout, options.suite, options.num_images, options.frames)
    require_writable_folder(options.output)
    pipeline = _load_text_pipeline(options)
    drawn = suites.draw_suite(
        pipeline, suite, options.output, options.batch_size, sys.stderr.isatty(), **sampling_of(options)
    )
    there = f"{len(suite.prompts)} prompts with {suite.count} samples each"
    say(f"{options.output}: {there}, as {suite.layout} reads them; {drawn} prompts drawn now by this process")


def measure_prompts(options: argparse.Namespace) -> Any:
    """Draw a picture of each caption and say whether it shows what the caption says."""
    from genrefine.evaluation.prompts import Columns, evaluate_prompts

    pipeline = _load_text_pipeline(options)
    size = pipeline.picture_size
    captions = options.caption_column
    found = evaluate_prompts(
        pipeline,
        load_pictures(options.data, options, size, caption_column=captions),
        [load_pictures(options.data, options, size, split=split) for split in options.gallery_splits],
        options.num_prompts,
        Columns(options.concept_column, options.style_column, options.group_column),
        load_extractor(options),
        options.batch_size,
        options.samples,
        options.seed,
        progress=sys.stderr.isatty(),
        **sampling_of(options),
    )
    say(found.extractor)
    say(f"{found.num_prompts} samples, {found.mean_steps:.2f} steps and {found.mean_evaluations:.2f} evaluations each")
    say(f"nearest of {found.num_gallery} real pictures; shares with 95 % intervals")
    for row in found.accuracies:
        shares = (row.concept, row.concept_of_five, row.style, row.style_of_five)
        names = ("concept", "of five", "style", "of five")
        cells = "   ".join(
            f"{name} {share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
            for name, share in zip(names, shares, strict=True)
        )
        say(f"{row.queries:<8} {row.num_queries:>5}   {cells}")
    for group in found.groups:
        accuracy = group.accuracy
        say(
            f"{group.name}: {accuracy.num_queries} samples, {group.mean_steps:.2f} steps, concept "
            f"{accuracy.concept.value:.1%}, style {accuracy.style.value:.1%}"
        )
    say_scores(found)
    return found


def measure_clips(options: argparse.Namespace) -> Any:
    """Draw a clip of each caption and compare the clips with the real ones."""
    from genrefine.evaluation.clips import evaluate_clips
    from genrefine.evaluation.extractor_file import ScriptedClipFeatures

    of_clips = ScriptedClipFeatures(options.clip_extractor) if options.clip_extractor else None
    pipeline = _load_text_pipeline(options)
    found = evaluate_clips(
        pipeline,
        load_clips(options, options.frames, pipeline.picture_size, options.caption_column),
        options.num_prompts,
        options.first_frames,
        load_extractor(options),
        options.batch_size,
        options.samples,
        options.seed,
        progress=sys.stderr.isatty(),
        clip_extractor=of_clips,
        **sampling_of(options),
    )
    say(found.extractor)
    say(
        f"{found.num_clips} clips of {found.num_frames} frames, {found.mean_steps:.2f} steps and "
        f"{found.mean_evaluations:.2f} evaluations each, beside {found.num_real} real clips"
    )
    for name, kernel in (("of frames", found.kernel), ("of halves of the real clips", found.kernel_floor)):
        say(f"kernel distance {name} {kernel.mean:.4f} (std of subsets {kernel.std:.4f})")
    if found.video is not None:
        say(f"Frechet video distance {found.video.frechet:.2f} ({found.video.extractor})")
    say("frame by frame " + " ".join(f"{value:.3f}" for value in found.kernel_of_frames))
    say(
        f"motion {found.motion:.4f} (median {found.motion_median:.4f}), real clips {found.motion_of_real:.4f} "
        f"(median {found.motion_median_of_real:.4f})"
    )
    own = found.tokenizer
    say(
        f"the tokenizer's own real clips {own.psnr:.2f} dB, motion {own.motion:.4f}, kernel distance "
        f"{own.kernel.mean:.4f} (std of subsets {own.kernel.std:.4f})"
    )
    if (first := found.first_frame) is not None:
        say(
            f"first frames {first.psnr:.2f} dB, the tokenizer's own {first.psnr_of_tokenizer:.2f} dB, at most "
            f"{first.largest_difference} of 255 apart"
        )
    say(f"streamed and whole decoding differ by {found.streamed_difference:.1e} at most")
    return found


def load_clips(options: argparse.Namespace, num_frames: int, size: Any, caption_column: str | None = None) -> Any:
    """Open the clips that the data options choose."""
    from genrefine.data import ClipSource

    source = ClipSource(
        options.data,
        num_frames=num_frames,
        size=size,
        split=options.split,
        video_column="video" if options.image_column == "image" else options.image_column,
        caption_column=caption_column,
        keep=parse_pairs(options.keep, "--keep"),
        drop=parse_pairs(options.drop, "--drop"),
        background=options.background,
        on_error="skip" if options.skip_unreadable else "raise",
    )
    for reason in source.skipped.values():
        sys.stderr.write(f"skipped: {reason}\n")
    return source


def _load_text_pipeline(options: argparse.Namespace) -> Any:
    from genrefine.pipelines import TextPipeline

    quiet_libraries()
    target = torch_device(options.device)
    pipeline = TextPipeline.from_pretrained(str(find_model(options.model)), dtype=torch_dtype(options.dtype))
    adapt(pipeline, options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(target)
