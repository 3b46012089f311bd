"""Options that several verbs share. Nothing here imports torch, so that help is quick."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from genrefine.errors import GenrefineError
from genrefine.sampling.options import OPTIONS, SamplingOptions

CLASS_MODEL = "emoji-class"
TEXT_MODEL = "emoji"
DTYPES = ("float32", "bfloat16", "float16")


def add_model_option(
    parser: argparse.ArgumentParser,
    what: str = "pipeline folder",
    default: str | None = CLASS_MODEL,
    in_words: str | None = None,
) -> None:
    """Let the caller name the model.

    Args:
        parser: gets the option.
        what: a model may be, for the help.
        default: name of the shipped model; None where the verb chooses by itself.
        in_words: which one it chooses then.
    """
    parser.add_argument(
        "--model",
        default=default,
        metavar="DIR_OR_NAME",
        help=f"{what}, shipped model or 'org/name' on the hub (default: {in_words or default})",
    )


def add_adapter_options(parser: argparse.ArgumentParser) -> None:
    """Let the caller adapt the model."""
    parser.add_argument(
        "--adapter", type=Path, metavar="DIR", help="adapter to add to the weights: folder or 'org/name'"
    )
    parser.add_argument(
        "--adapter-scale",
        type=float,
        metavar="S",
        help="multiplies the effect of the adapter; 0 is the model itself (1)",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Let the caller say where to compute."""
    parser.add_argument("--device", default="cpu", help="torch device such as cpu, cuda, mps (default: %(default)s)")


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    """Let the caller say how precisely to compute."""
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="number format of networks (%(default)s)")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Let the caller have the numbers as a file."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was done and found as JSON")


def add_batch_option(parser: argparse.ArgumentParser, default: int = 64) -> None:
    """Let the caller trade memory for speed."""
    parser.add_argument(
        "--batch-size", type=positive, default=default, metavar="N", help=f"pictures per network call ({default})"
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Let the caller change the sampling defaults of the model: one flag per field of `SamplingOptions`."""
    parser.add_argument("--preset", metavar="NAME", help="sampling options that the model has saved under this name")
    steps = parser.add_mutually_exclusive_group()
    for option in fields(SamplingOptions):
        group = steps if option.name in ("num_inference_steps", "adaptive") else parser
        given: dict[str, Any] = {"help": option.metadata["help"], "default": None}
        if option.type is bool:
            given["action"] = argparse.BooleanOptionalAction
        else:
            metavar = option.metadata["metavar"]
            given |= {"metavar": metavar, "type": _number_type(option.type)}
            if isinstance(metavar, tuple):
                given["nargs"] = len(metavar)
        group.add_argument(f"--{option.name.replace('_', '-')}", **given)


def sampling_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the sampling options that were given."""
    return {name: getattr(options, name) for name in ("preset", *OPTIONS) if getattr(options, name) is not None}


def _number_type(declared: Any) -> type:
    """Return what parses a value of a declared type, the same for `float`, `float | None` and `tuple[float, float]`."""
    inner: type = (get_args(declared) or (declared,))[0]
    return inner


def add_data_options(parser: argparse.ArgumentParser, labels: bool = True) -> None:
    """Let the caller choose pictures of a data set, and where their classes are if `labels` matter."""
    parser.add_argument("--split", metavar="NAME", help="split of the data set, or subfolder of the image folder")
    parser.add_argument("--image-column", default="image", metavar="NAME", help="column of pictures (image)")
    if labels:
        parser.add_argument("--label-column", metavar="NAME", help="column of classes (class_name or label)")
    for name, what in (("--keep", "take only"), ("--drop", "leave out")):
        parser.add_argument(
            name, nargs="+", action="extend", default=[], metavar="COLUMN=VALUE", help=f"{what} rows with these values"
        )
    parser.add_argument("--background", default="white", help="color under transparent pixels (default: white)")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out files that are no pictures, and name them"
    )


def positive(word: str) -> int:
    """Parse a whole number of at least 1, for argparse."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def parse_pairs(words: list[str], option: str) -> dict[str, list[str]]:
    """Split NAME=VALUE words, collecting the values of each name.

    Raises:
        GenrefineError: a word has no name or no equals sign.
    """
    pairs: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise GenrefineError(f"{option} takes NAME=VALUE; got '{word}'")
        pairs.setdefault(name, []).append(value)
    return pairs
