"""The command line: `genrefine VERB ...`, one module per verb.

Each verb module has `add_options(parser)` and `run(options)`. A verb's module is imported when the verb is named, and
torch when it runs, so that `--help` answers at once. What the caller got wrong ends in one line on standard error and
exit code 2, an interrupt (Ctrl-C) in one line and 130, SIGTERM in one and 143; a traceback means a defect of ours (or
`--debug`).
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from genrefine.errors import GenrefineError, Terminated

VERBS = {
    "generate": "make pictures and clips from prompts, pictures from class names",
    "edit": "change a picture: paint a part anew, say what it is to show, mend it, let it grow",
    "reconstruct": "encode a picture, decode it again, and measure what was lost",
    "encode": "turn an image folder or data set into a code store",
    "train": "train a tokenizer or a refiner from a preset",
    "calibrate": "fit the entropy-guided step budget of a model",
    "evaluate": "measure generated or reconstructed pictures",
    "convert": "turn published checkpoints into model folders",
    "describe": "say what a model folder holds",
    "studio": "open a local page to make, edit and look inside",
}


class OneLineParser(argparse.ArgumentParser):
    """Report wrong usage in one line instead of two, take no abbreviations, and give help room."""

    def __init__(self, **settings: Any) -> None:
        room = partial(argparse.HelpFormatter, max_help_position=30)
        super().__init__(**{"allow_abbrev": False, "formatter_class": room, **settings})

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 2 wrong input, 130 interrupted, 143 terminated.

    Args:
        arguments: words after `genrefine`; default is those of the process.
    """
    _prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb, debug = "", False
    before = _heed_termination()
    try:
        options = _parse(words)
        verb, debug = options.verb, options.debug
        options.run(options)
        sys.stdout.flush()
    except (KeyboardInterrupt, GenrefineError, OSError) as error:
        if debug:
            raise
        return _end(verb, error)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 0


def _heed_termination() -> Any:
    """Let SIGTERM end a command as Ctrl-C does, with a line and everything put away; return what it did before."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return None

    def end(number: int, frame: Any) -> NoReturn:
        raise Terminated

    return signal.signal(signal.SIGTERM, end)


def _prepare_streams() -> None:
    """Let no line end a command after its work is done: a closed stream takes it, a narrow encoding gets escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for the whole process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _end(verb: str, error: BaseException) -> int:
    """Report in one line why a verb ended and return its exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader of our output has gone (`| head`); without this Python complains once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, Terminated):
        message, code = "terminated", 143
    elif isinstance(error, KeyboardInterrupt):
        message, code = "interrupted", 130
    elif isinstance(error, OSError):
        place = f" '{error.filename}'" if error.filename else ""
        message, code = f"cannot use{place} ({error.strerror or error})", 2
    else:
        message, code = str(error), 2
    sys.stderr.write(f"genrefine {verb}".rstrip() + f": {' '.join(message.split())}\n")
    return code


def _parse(words: Sequence[str]) -> argparse.Namespace:
    from genrefine import __version__

    parser = OneLineParser(
        prog="genrefine",
        usage="genrefine [-h] [--version] VERB ...",
        description="Generative Refinement Networks: train and sample.",
    )
    parser.add_argument("--version", action="version", version=f"genrefine {__version__}")
    column = f"{'VERB':{max(map(len, VERBS)) + 4}}"  # argparse forgets the indent of verbs when it aligns their help
    verbs = parser.add_subparsers(title="verbs", prog="genrefine", dest="verb", metavar=column, required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, summary in VERBS.items():
        sentence = f"{summary[0].upper()}{summary[1:]}."
        verb = verbs.add_parser(name, help=summary, description=sentence)
        if name == chosen:
            module = import_module(f"genrefine.cli.{name}")
            module.add_options(verb)
            verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
            verb.set_defaults(run=module.run)
    return parser.parse_args(words)
