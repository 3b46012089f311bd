"""Options that several verbs share. Nothing here imports more than argparse, so that help is quick."""

import argparse
from pathlib import Path

from genrefine.errors import GenrefineError

CLASS_MODEL = "emoji-class"
TEXT_MODEL = "emoji"
DTYPES = ("float32", "bfloat16", "float16")
SAMPLING = (
    "num_inference_steps",
    "adaptive",
    "guidance_scale",
    "guidance_interval",
    "guidance_interval_closed",
    "guidance_power",
    "temperature",
    "schedule",
    "schedule_cap",
    "schedule_steps",
    "final_pass",
    "shift",
    "kernel",
    "kernel_switch",
    "signal",
    "stop_at",
)
"""Names of the sampling options, which are also arguments of the pipeline; None stands for the model's default."""


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
    """Let the caller change the sampling defaults of the model."""
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument("--num-inference-steps", type=int, metavar="N", help="refinements of every picture")
    steps.add_argument(
        "--adaptive", action="store_true", default=None, help="let the entropy of each picture decide its refinements"
    )
    parser.add_argument("--guidance-scale", type=float, metavar="G", help="weight of the class or prompt; 1 is off")
    parser.add_argument(
        "--guidance-interval", nargs=2, type=float, metavar=("LOW", "HIGH"), help="signals between which guidance is on"
    )
    parser.add_argument(
        "--guidance-interval-closed",
        action=argparse.BooleanOptionalAction,
        help="guide at both ends of the interval, too, or not",
    )
    parser.add_argument("--guidance-power", type=float, metavar="P", help="let guidance grow as power-cosine guidance")
    parser.add_argument("--temperature", type=float, metavar="T", help="divides the logits; below 1 is safer")
    parser.add_argument("--schedule", metavar="NAME", help="linear or cosine")
    parser.add_argument("--schedule-cap", type=float, metavar="SIGNAL", help="where the cosine schedule ends; 1 is off")
    parser.add_argument(
        "--schedule-steps", type=int, metavar="N", help="refinements that the schedule is spread over, if not all"
    )
    parser.add_argument(
        "--final-pass",
        action=argparse.BooleanOptionalAction,
        help="let the last refinement run at the end of the schedule, or not",
    )
    parser.add_argument("--shift", type=float, metavar="A", help="moves the schedule towards noise; 1 is off")
    parser.add_argument("--kernel", metavar="NAME", help="refresh, exact or refresh-then-exact")
    parser.add_argument(
        "--kernel-switch", type=float, metavar="SIGNAL", help="where refresh-then-exact changes over, between 0 and 1"
    )
    parser.add_argument("--signal", metavar="NAME", help="what the network is told: nominal or realized")
    parser.add_argument("--stop-at", type=float, metavar="SIGNAL", help="end a picture after a step at this signal")


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
