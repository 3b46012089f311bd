"""`genrefine evaluate`: how good reconstructions, samples, pictures of prompts and clips are, alone and in pairs."""

import argparse
import sys
from pathlib import Path
from typing import Any

from genrefine.cli.answers import is_first_process, say
from genrefine.cli.evaluate_pictures import (
    add_pair_options,
    add_picture_options,
    add_statistics_options,
    measure_pairs,
    measure_pictures,
    measure_statistics,
)
from genrefine.cli.evaluate_text import (
    add_clip_options,
    add_prompt_options,
    add_suite_options,
    draw_suite,
    load_clips,
    measure_clips,
    measure_prompts,
)
from genrefine.cli.loading import adapt, load_class_pipeline, load_pictures, load_tokenizer
from genrefine.cli.options import (
    CLASS_MODEL,
    TEXT_MODEL,
    add_adapter_options,
    add_batch_option,
    add_data_options,
    add_device_option,
    add_dtype_option,
    add_json_option,
    add_model_option,
    add_sampling_options,
    positive,
    sampling_of,
)
from genrefine.cli.scores import (
    REFERENCE_HELP,
    add_extractor_options,
    load_extractor,
    load_reference,
    say_reference,
    say_scores,
)
from genrefine.errors import GenrefineError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb: eight subjects, each with its own."""
    subjects = parser.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    tokenizer = subjects.add_parser("tokenizer", help="PSNR, SSIM and bits per pixel of reconstructions")
    tokenizer.add_argument(
        "--rounds", type=int, nargs="*", default=list(range(1, 9)), metavar="M", help="other HBQ rounds to try (1 to 8)"
    )
    tokenizer.add_argument(
        "--size", type=positive, metavar="PIXELS", help="crop and resize to this side (default: as they are)"
    )
    tokenizer.add_argument("--frames", type=positive, metavar="N", help="read clips of N frames (default: pictures)")
    tokenizer.add_argument(
        "--perceptual", type=Path, metavar="FILE", help="vgg16.pt of StyleGAN for LPIPS (default: EfficientNet-Lite0)"
    )
    tokenizer.add_argument("--pixels-only", action="store_true", help="leave perceptual and Frechet distance out")
    add_model_option(tokenizer, "pipeline or tokenizer folder")
    samples = subjects.add_parser("samples", help="kernel and Frechet distance of samples of a class model")
    samples.add_argument("--num-samples", type=int, default=2000, metavar="N", help="pictures to make (2000)")
    samples.add_argument(
        "--training-split", metavar="NAME", help="split of the training pictures, for a floor and nearest neighbors"
    )
    prompts = subjects.add_parser("prompts", help="whether pictures of captions show what these say")
    add_prompt_options(prompts)
    clips = subjects.add_parser("clips", help="clips of captions beside the real ones")
    add_clip_options(clips)
    pictures = subjects.add_parser("pictures", help="the same distances of pictures that are there already")
    add_picture_options(pictures)
    pairs = subjects.add_parser("pairs", help="which of two sets of the same seeds is nearer, with an interval")
    add_pair_options(pairs)
    statistics = subjects.add_parser("statistics", help="write mean and covariance of real pictures")
    add_statistics_options(statistics)
    suite = subjects.add_parser("suite", help="draw a benchmark's prompts as its own scorer reads them")
    add_suite_options(suite)
    for subject in (tokenizer, samples, prompts, clips, pictures, pairs, statistics):
        add_extractor_options(subject)
    for subject in (samples, prompts, clips, pictures, pairs):
        subject.add_argument("--seed", type=int, default=0, metavar="S", help="seed of subsets and choices (0)")
    samples.add_argument("--reference", type=Path, metavar="FILE", help=REFERENCE_HELP)
    for subject in (samples, prompts, clips):
        subject.add_argument(
            "--samples", type=Path, metavar="DIR", help="keep finished samples here, and continue from them"
        )
    for subject in (samples, prompts, clips, suite):
        add_model_option(subject, default=CLASS_MODEL if subject is samples else TEXT_MODEL)
        add_adapter_options(subject)
        add_sampling_options(subject)
    large = (tokenizer, pictures, pairs, statistics)
    for subject in (*large, samples, prompts, clips):
        may_lack = subject in (samples, pictures)
        words = "held-out pictures: folder or data set" + (" (not needed with --reference)" if may_lack else "")
        subject.add_argument("--data", required=not may_lack, metavar="SOURCE", help=words)
        add_data_options(subject, labels=subject is samples)
        add_batch_option(subject, 32 if subject in large else 8 if subject is clips else 16)
        add_json_option(subject)
    add_batch_option(suite, 16)
    for subject in (tokenizer, samples, prompts, clips, suite):
        add_device_option(subject)
        add_dtype_option(subject)


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    from genrefine.files import require_writable, require_writable_folder, write_atomically

    if options.subject == "suite":
        draw_suite(options)
        return
    if options.json:
        require_writable(options.json)
    if getattr(options, "samples", None):
        require_writable_folder(options.samples)
    record = _MEASURE[options.subject](options)
    if options.json and is_first_process():
        write_atomically(options.json, (record.to_json() + "\n").encode())


def _tokenizer(options: argparse.Namespace) -> Any:
    from genrefine.evaluation.perceptual import EfficientNetPerceptual, ScriptedPerceptual
    from genrefine.evaluation.reconstruction import evaluate_tokenizer

    networks: dict[str, Any] = {}
    if not options.pixels_only:
        script = options.perceptual
        perceptual = ScriptedPerceptual(script) if script else EfficientNetPerceptual()
        networks = {"extractor": load_extractor(options), "perceptual": perceptual}
    elif options.perceptual or options.extractor:
        raise GenrefineError("--pixels-only leaves networks out; drop it, or --perceptual and --extractor")
    source: Any = load_pictures(options.data, options, options.size) if options.frames is None else _clips(options)
    tokenizer = load_tokenizer(options.model, options.device, options.dtype)
    networks["progress"] = sys.stderr.isatty()
    found = evaluate_tokenizer(tokenizer, source, options.rounds, options.batch_size, **networks)
    what = "pictures" if found.frames == 1 else f"clips of {found.frames} frames"
    say(f"{found.num_pictures} {what} of {found.width} x {found.height}")
    say(f"PSNR {found.psnr:.2f} dB   SSIM {found.ssim:.4f}   {found.bits_per_pixel:.3f} bits per pixel")
    say(f"without quantization {found.psnr_unquantized:.2f} dB")
    if found.frames > 1:
        say("frame by frame " + " ".join(f"{value:.2f}" for value in found.psnr_of_frames) + " dB")
    if found.networks is not None:
        say(f"perceptual distance {found.perceptual:.4f}   {found.networks[0]}")
        say(f"Frechet distance {found.frechet:.4f}   {found.networks[1]}")
    for number, row in enumerate(found.bit_entropies, start=1):
        say(f"round {number}   entropy of a bit {sum(row) / len(row):.3f}, in the least used channel {min(row):.3f}")
    for rate in found.rates:
        say(f"M = {rate.rounds}   {rate.bits_per_pixel:6.3f} bits per pixel   {rate.psnr:6.2f} dB")
    return found


def _clips(options: argparse.Namespace) -> Any:
    return load_clips(options, options.frames, options.size)


def _samples(options: argparse.Namespace) -> Any:
    from genrefine.evaluation.evaluate import evaluate_class_pipeline

    if options.data is None and options.reference is None:
        raise GenrefineError("samples are compared with real pictures; give --data SOURCE or --reference FILE, or both")
    if options.data is None and options.training_split:
        raise GenrefineError("--training-split names a split of the data; give --data with it")
    reference = load_reference(options)
    pipeline = load_class_pipeline(options.model, options.device, options.dtype)
    adapt(pipeline, options)
    names = pipeline.class_names
    held_out = training = None
    if options.data is not None:
        held_out = load_pictures(options.data, options, pipeline.picture_size, names)
    if options.training_split:
        training = load_pictures(options.data, options, pipeline.picture_size, names, options.training_split)
    pipeline.set_progress_bar_config(disable=True)
    found = evaluate_class_pipeline(
        pipeline,
        held_out,
        options.num_samples,
        training,
        load_extractor(options),
        options.batch_size,
        options.samples,
        options.seed,
        progress=sys.stderr.isatty(),
        reference=reference,
        **sampling_of(options),
    )
    say(found.extractor)
    say(f"{found.num_samples} samples, {found.mean_steps:.2f} steps and {found.mean_evaluations:.2f} evaluations each")
    say_scores(found)
    say_reference(found.reference)
    if (memory := found.memorization) is not None:
        say(
            f"median distance to the nearest training picture: samples {memory.median_distance_of_samples:.4f}, "
            f"held-out {memory.median_distance_of_held_out:.4f}"
        )
        say(f"samples nearer than 99 % of held-out pictures: {memory.near_share:.1%}")
    return found


_MEASURE = {
    "tokenizer": _tokenizer,
    "samples": _samples,
    "prompts": measure_prompts,
    "clips": measure_clips,
    "pictures": measure_pictures,
    "pairs": measure_pairs,
    "statistics": measure_statistics,
}
