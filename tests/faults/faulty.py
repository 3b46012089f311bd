"""Commands that run in processes of their own, each with a fault built in, as `multiprocessing` starts them.

A fault is a word and a number: `replace 3` kills the process at its third renaming, `full 5000` lets no file grow above
5,000 bytes, `nan 7` makes the gradients of the seventh update NaN, `clock 4` lets the clock jump at every fourth look,
`reader 1` kills a process that loads data, `readonly 0` takes the right to write. `none` is none, `signal` has its own
sender.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch._dynamo  # an optimizer's first step would take seconds to import it

import genrefine.cli as cli
import genrefine.cli.encode
import genrefine.cli.train
import genrefine.experiments.tokenizer_run  # noqa: F401 (read once, before processes are forked)

NOBODY = 65534


def run(words: Sequence[str], log: Path, fault: str, number: int) -> NoReturn:
    """Carry out a command of ours with a fault, its output in a file; end the process with its exit code."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(log, "w") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    sys.stdout, sys.stderr = (open(n, "w", 1, closefd=False) for n in (1, 2))  # noqa: SIM115
    torch.set_num_threads(1)
    FAULTS.get(fault, lambda _: None)(number)
    code = cli.main(list(words))
    for sent in (signal.SIGINT, signal.SIGTERM):  # whoever sends one now is too late
        signal.signal(sent, signal.SIG_IGN)
    sys.stdout.flush()
    os._exit(code)


def _counted(number: int, plain: Any, at: Any) -> Any:
    seen = 0

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == number:
            return at(*arguments, **options)
        return plain(*arguments, **options)

    return counting


def _die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _replace(number: int) -> None:
    os.replace = _counted(number, os.replace, _die)


def _flush(number: int) -> None:
    os.fsync = _counted(number, os.fsync, _die)


def _full(number: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _nan(number: int) -> None:
    plain = torch.Tensor.backward
    poisoned = _counted(number, plain, lambda loss, *rest, **options: plain(loss * float("nan"), *rest, **options))
    torch.Tensor.backward = poisoned  # type: ignore[method-assign]


def _clock(number: int) -> None:
    plain, looks = time.time, 0

    def jumping() -> float:
        nonlocal looks
        looks += 1
        return plain() + 86400 * (-1) ** (looks // number)

    time.time = jumping


def _reader(number: int) -> None:
    """Kill a process that loads data at an update."""
    plain = torch.Tensor.backward

    def killing(loss: torch.Tensor, *rest: Any, **options: Any) -> None:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended meanwhile
                pid, *_, parent = stat.read_text().replace(") ", " ").split()[:4]
                if int(parent) == os.getpid():
                    os.kill(int(pid), signal.SIGKILL)
        plain(loss, *rest, **options)

    torch.Tensor.backward = _counted(number, plain, killing)  # type: ignore[method-assign]


def _readonly(_: int) -> None:
    if os.geteuid() == 0:  # which may write anywhere
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


FAULTS = {
    "replace": _replace,
    "flush": _flush,
    "full": _full,
    "nan": _nan,
    "clock": _clock,
    "reader": _reader,
    "readonly": _readonly,
}


def start(context: Any, words: Sequence[str], log: Path, fault: str = "none", number: int = 0) -> ForkServerProcess:
    """Start a command in a process forked from one that has imported everything."""
    process: ForkServerProcess = context.Process(target=run, args=([str(word) for word in words], log, fault, number))
    process.start()
    return process
