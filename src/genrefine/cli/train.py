"""`genrefine train`: a tokenizer or a refiner from a preset."""

import argparse
from pathlib import Path

from genrefine.cli.answers import say
from genrefine.cli.options import parse_pairs
from genrefine.errors import GenrefineError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    parser.add_argument("preset", nargs="?", metavar="PRESET", help="name of a preset")
    parser.add_argument("--list", action="store_true", help="print the presets and end")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="change settings of the preset, such as training.batch_size=64",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; an existing run is continued")


def run(options: argparse.Namespace) -> None:
    """Start a run, or continue the one in the folder."""
    from genrefine import presets

    if options.list:
        if options.preset or options.set or options.out:
            raise GenrefineError("--list trains nothing; leave out the preset, --set and --out")
        for name in presets.names():
            summary = (presets.PRESETS[name].__doc__ or "").strip().splitlines()[0].removeprefix("Return ")
            say(f"{name:20s} {summary}")
        return
    if options.preset is None:
        raise GenrefineError(f"train needs a preset; expected one of: {', '.join(presets.names())}")
    if options.out is None:
        raise GenrefineError("train needs a folder for the run; give --out DIR")
    prepared = presets.get(options.preset, _parse_changes(options.set))
    from genrefine.files import require_writable_folder

    require_writable_folder(options.out)
    from accelerate import PartialState

    try:
        result = prepared.run(options.out)
        if PartialState().is_main_process:
            say(f"result: {result}")
    finally:
        PartialState().destroy_process_group()  # else torch complains when one of several processes ends


def _parse_changes(words: list[str]) -> dict[str, str]:
    changes = parse_pairs(words, "--set")
    for name, values in changes.items():
        if len(values) > 1:
            raise GenrefineError(f"--set changes '{name}' {len(values)} times; give it once")
    return {name: values[0] for name, values in changes.items()}
