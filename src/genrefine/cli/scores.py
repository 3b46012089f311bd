"""What the subjects of `genrefine evaluate` share: feature networks, statistics in files, how scores are said."""

import argparse
from pathlib import Path
from typing import Any

from genrefine.cli.answers import say
from genrefine.cli.options import positive

REFERENCE_HELP = "file of statistics, .npz with mu and sigma, of pictures described by the same extractor"


def add_extractor_options(parser: argparse.ArgumentParser) -> None:
    """Let the caller bring a feature network."""
    parser.add_argument(
        "--extractor",
        type=Path,
        metavar="FILE",
        help="feature network (default: EfficientNet-Lite0): FID's Inception-v3 as TorchScript or weights, or a .pt2; "
        "all but weights are programs: files that you trust",
    )
    parser.add_argument(
        "--extractor-size",
        type=positive,
        default=128,
        metavar="PIXELS",
        help="side of its input (128); Inception has its own",
    )


def load_extractor(options: argparse.Namespace) -> Any:
    """Return the feature network that the options choose."""
    from genrefine.evaluation.extractor_file import read_extractor
    from genrefine.evaluation.features import EfficientNetFeatures

    path, size = options.extractor, options.extractor_size
    return EfficientNetFeatures(size) if path is None else read_extractor(path, size)


def load_reference(options: argparse.Namespace) -> Any:
    """Return the statistics that the options name, if any."""
    from genrefine.evaluation.statistics import read_statistics

    return read_statistics(options.reference) if options.reference else None


def say_scores(found: Any) -> None:
    """Print the distances to held-out pictures and the floors, fidelity and diversity, and the inception score."""
    for row in found.comparisons:
        say(f"{row.first} ({row.num_first}) against {row.second} ({row.num_second}):")
        kernel = row.kernel
        say(f"    kernel distance {kernel.mean:.4f} (std of subsets {kernel.std:.4f})   Frechet {row.frechet:.2f}")
    if found.manifold is not None:
        say(f"{words_of(found.manifold)}, against held-out pictures")
    if found.inception is not None:
        score = found.inception
        say(f"inception score {score.mean:.3f} (std of {score.num_splits} splits {score.std:.3f})")


def say_reference(one: Any) -> None:
    """Print a distance to statistics, where there is one."""
    if one is not None:
        say(f"Frechet distance {one.frechet:.3f} of {one.num_samples} samples to '{one.file}'")


def words_of(one: Any) -> str:
    """Return fidelity and diversity in words."""
    four = ("precision", "recall", "density", "coverage")
    return ", ".join(f"{name} {getattr(one, name):.3f}" for name in four)
