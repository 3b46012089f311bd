"""Count the hops of one picture: our functions and files that run for it, and how often the way leads back up.

    python scripts/trace_hops.py command                          # of this tree; or load, or call
    PYTHONPATH=OTHER/src python scripts/trace_hops.py command     # of another one

Traced with `sys.setprofile`: `command` is the command line (`genrefine generate "a red heart"`, from the words to the
written file), `load` the same in Python (load the shipped model, call it), `call` the call alone. A function is a piece
of code with a name; comprehensions and lambdas (Python 3.12 runs the former no longer as functions) are counted apart,
and bodies of modules and classes not at all. The way doubles back where a function calls one of a room above its own;
the rooms and their order are those of `tests/contracts/test_arrows.py` in the tree that is traced.
"""

import argparse
import importlib.util
import inspect
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import genrefine

ROOT = Path(genrefine.__file__).resolve().parent
UNNAMED = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<lambda>")
PROMPT = "a red heart"


def ranks() -> dict[str, int]:
    """Return the height of every room of the traced tree."""
    contract = ROOT.parents[1] / "tests/contracts/test_arrows.py"
    spec = importlib.util.spec_from_file_location("arrows_of_the_traced_tree", contract)
    assert spec is not None
    assert spec.loader is not None
    arrows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(arrows)
    return dict(arrows.RANK)


def room(code: CodeType) -> str | None:
    """Return the part of the package that a piece of code belongs to; None if it is not ours."""
    path = Path(code.co_filename)
    if ROOT not in path.parents:
        return None
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


class Trace:
    """What ran: our pieces of code, and the calls that lead from a room to one above it."""

    def __init__(self) -> None:
        self.rank = ranks()
        self.codes: set[CodeType] = set()
        self.upward: Counter[tuple[str, str]] = Counter()
        self._rooms: dict[CodeType, str | None] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Take note of one event of `sys.setprofile`."""
        if event != "call" or (here := self._room(frame.f_code)) is None:
            return
        if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # the body of a module or class
            return
        self.codes.add(frame.f_code)
        caller = frame.f_back
        while caller is not None and self._room(caller.f_code) is None:
            caller = caller.f_back
        if caller is None:
            return
        there = self._room(caller.f_code)
        if there in self.rank and here in self.rank and self.rank[here] > self.rank[there]:
            self.upward[f"{there}: {caller.f_code.co_name}", f"{here}: {frame.f_code.co_name}"] += 1

    def numbers(self) -> dict[str, Any]:
        """Return the counts."""
        named = {code for code in self.codes if code.co_name not in UNNAMED}
        return {
            "functions": len(named),
            "files": len({code.co_filename for code in named}),
            "comprehensions and lambdas": len(self.codes - named),
            "doubling back": len(self.upward),
            "which": [" -> ".join(pair) for pair in self.upward],
            "in each file": dict(Counter(str(Path(c.co_filename).relative_to(ROOT)) for c in named).most_common()),
        }

    def _room(self, code: CodeType) -> str | None:
        if code not in self._rooms:
            self._rooms[code] = room(code)
        return self._rooms[code]


def traced(action: Callable[[], Any]) -> dict[str, Any]:
    """Run something and return its numbers."""
    trace = Trace()
    sys.setprofile(trace)
    try:
        action()
    finally:
        sys.setprofile(None)
    return trace.numbers()


def command_line() -> dict[str, Any]:
    """Trace `genrefine generate`."""
    from genrefine.cli import main

    with tempfile.TemporaryDirectory() as folder:
        return traced(lambda: main(["generate", PROMPT, "-o", f"{folder}/heart.png", "--num-inference-steps", "3"]))


def python(with_loading: bool) -> dict[str, Any]:
    """Trace the call of a pipeline, with or without loading it."""
    from genrefine import zoo

    def call(pipe: Any) -> None:
        pipe.set_progress_bar_config(disable=True)
        pipe(PROMPT, seed=7, num_inference_steps=3)

    if with_loading:
        return traced(lambda: call(zoo.load("emoji")))
    loaded = zoo.load("emoji")
    return traced(lambda: call(loaded))


def main() -> None:
    """Print a table, or everything as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "way", choices=["command", "load", "call"], help="one a process: what has run once may be remembered"
    )
    parser.add_argument("--json", action="store_true", help="print every count, and which calls lead upward")
    options = parser.parse_args()
    numbers = command_line() if options.way == "command" else python(options.way == "load")
    if options.json:
        print(json.dumps(numbers, indent=1))
    else:
        print(", ".join(f"{value} {name}" for name, value in numbers.items() if isinstance(value, int)))


if __name__ == "__main__":
    main()
