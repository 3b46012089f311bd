"""Signals that ask a run to stop: it ends after the update at work, saved, and whoever asked hears so.

A terminal sends SIGINT, and a scheduler may send SIGTERM, to all processes of a group; processes that only load data
leave both to the one that trains.
"""

import signal
from typing import Any, ClassVar

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Turn the first SIGINT or SIGTERM into a request to stop after the current update."""

    latest: ClassVar[int | None] = None
    """The signal that stopped the latest run of this process; None if none did."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interrupt":
        Interrupt.latest = None
        self._before = {number: signal.getsignal(number) for number in STOPPING}
        for number in self._before:
            signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested, Interrupt.latest = True, number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def leave_signals_to_parent(worker: int) -> None:
    """Let a process that loads data go on until its parent ends it; for `DataLoader(worker_init_fn=...)`."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
