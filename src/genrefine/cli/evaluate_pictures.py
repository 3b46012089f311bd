"""`genrefine evaluate pictures`, `pairs` and `statistics`: pictures that are there already, whatever made them."""

import argparse
import sys
from pathlib import Path
from typing import Any

from genrefine.cli.answers import say
from genrefine.cli.loading import load_pictures
from genrefine.cli.options import positive
from genrefine.cli.scores import REFERENCE_HELP, load_extractor, load_reference, say_reference, say_scores, words_of
from genrefine.errors import GenrefineError


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """Describe what one set has."""
    parser.add_argument("pictures", type=Path, metavar="PICTURES", help="folder of `--samples`, or of pictures")
    parser.add_argument("--reference", type=Path, metavar="FILE", help=REFERENCE_HELP)
    _add_size_option(parser)


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """Describe what two sets have."""
    parser.add_argument("first", type=Path, metavar="FIRST", help="folder of `--samples`, or of pictures")
    parser.add_argument("second", type=Path, metavar="SECOND", help="the same of another setting")
    parser.add_argument(
        "--num-resamplings", type=positive, default=1000, metavar="N", help="resamplings of the bootstrap (1000)"
    )
    _add_size_option(parser)


def add_statistics_options(parser: argparse.ArgumentParser) -> None:
    """Describe what a file of statistics needs."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="statistics, .npz")
    _add_size_option(parser)


def measure_pictures(options: argparse.Namespace) -> Any:
    """Compare a set with real pictures."""
    if options.data is None and options.reference is None:
        raise GenrefineError("pictures are compared with real ones; give --data SOURCE, or --reference FILE, or both")
    from genrefine.evaluation.picture_sets import evaluate_pictures, read_set

    pictures = read_set(options.pictures, options.size)
    found = evaluate_pictures(
        pictures,
        load_pictures(options.data, options, options.size or pictures.size) if options.data else None,
        load_reference(options),
        load_extractor(options),
        options.batch_size,
        options.seed,
        progress=sys.stderr.isatty(),
    )
    say(found.extractor)
    say(f"{found.num_pictures} pictures of '{found.pictures}'")
    say_scores(found)
    say_reference(found.reference)
    return found


def measure_pairs(options: argparse.Namespace) -> Any:
    """Say which of two sets is nearer to real pictures."""
    from genrefine.evaluation.picture_sets import evaluate_pairs, read_set

    first, second = (read_set(path, options.size) for path in (options.first, options.second))
    found = evaluate_pairs(
        first,
        second,
        load_pictures(options.data, options, options.size or first.size),
        load_extractor(options),
        options.batch_size,
        options.seed,
        progress=sys.stderr.isatty(),
        num_resamplings=options.num_resamplings,
    )
    pair = found.paired
    say(found.extractor)
    say(f"{pair.num_pairs} pairs beside {pair.num_pictures} real pictures")
    say(f"intervals of 95 %, {pair.num_resamplings} resamplings of both")
    for name, (a, b) in found.different.items():
        say(f"{name}: {a} and {b}")
    for row, kid in enumerate((pair.first, pair.second)):
        four, cost = found.manifolds[row], found.mean_evaluations[row]
        evaluations = "" if cost is None else f"   {cost:.2f} evaluations each"
        say(f"{found.names[row]}:{evaluations}")
        say(f"    kernel distance {kid.value:.4f} ({kid.low:.4f} to {kid.high:.4f})   Frechet {found.frechet[row]:.2f}")
        say(f"    {words_of(four)}")
    d = pair.difference
    verdict = "no difference beyond chance" if not d.is_apart else f"'{found.names[d.value < 0]}' is nearer"
    say(f"difference, second - first: {d.value:+.4f} ({d.low:+.4f} to {d.high:+.4f}): {verdict}")
    return found


def measure_statistics(options: argparse.Namespace) -> Any:
    """Describe real pictures and write their mean and covariance."""
    from genrefine.evaluation.features import collect_features
    from genrefine.evaluation.picture_sets import StatisticsRecord
    from genrefine.evaluation.pictures import pixel_batches
    from genrefine.evaluation.statistics import statistics_of, write_statistics
    from genrefine.files import require_writable

    require_writable(options.output)
    source = load_pictures(options.data, options, options.size)
    network = load_extractor(options)
    batches = pixel_batches(source, options.batch_size, sys.stderr.isatty(), "features")
    statistics = statistics_of(collect_features(network, batches), network.description)
    write_statistics(options.output, statistics)
    say(network.description)
    say(f"{options.output}: mean and covariance of {statistics.num_pictures} pictures")
    return StatisticsRecord(str(options.output), network.description, len(source))


def _add_size_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=positive, metavar="PIXELS", help="crop and resize files to this side (default: as they are)"
    )
