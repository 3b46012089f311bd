"""Prompts that a verb takes from a file or from standard input, and the loop that asks for them one by one."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from genrefine.cli.answers import say
from genrefine.errors import GenrefineError


def add_prompt_options(parser: argparse.ArgumentParser) -> None:
    """Let the caller say prompts elsewhere than on the command line."""
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="prompts, one a line, in place of PROMPT; - for standard input"
    )
    parser.add_argument(
        "--interactive", action="store_true", help="ask for prompts one after the other, with the model kept loaded"
    )


def read_prompts(options: argparse.Namespace) -> list[str]:
    """Return the lines of the file or of standard input that say something.

    Raises:
        GenrefineError: prompts are given in two ways, the file cannot be read, or holds none.
    """
    if options.prompt or options.interactive:
        other = "PROMPT" if options.prompt else "--interactive"
        raise GenrefineError(f"--prompts says what to make; leave {other} out")
    try:
        text = sys.stdin.read() if str(options.prompts) == "-" else options.prompts.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GenrefineError(f"cannot read prompts from '{options.prompts}' ({error}); give a text file") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise GenrefineError(f"'{options.prompts}' holds no prompts; write one a line")
    return prompts


def ask(verb: str, model: str, make: Callable[[str], None]) -> None:
    """Make what each line of standard input says, until it ends; a line that cannot be made is told and passed over."""
    say(f"'{model}' is loaded; a prompt a line, an empty line or the end of input ends")
    for line in sys.stdin:
        if not line.strip():
            return
        try:
            make(line.strip())
        except GenrefineError as error:
            sys.stderr.write(f"genrefine {verb}: {error}\n")
