"""How the benchmarks measure and report.

Speeds of a machine drift by tens of percent within minutes, so two things are only compared within one run, in turns:
A B A B ..., and by the ratio of their medians. Every report starts with what a reader needs to repeat it: machine,
torch, threads, commit and command.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

CHECKOUT = Path(__file__).resolve().parent.parent


Task = Callable[[], Any]


class Seconds(NamedTuple):
    """Time of one task over all turns."""

    median: float
    best: float


def parser(description: str | None, repetitions: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    options = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    options.add_argument("--repetitions", type=int, default=repetitions, help="turns of every measurement")
    options.add_argument("--threads", type=int, help="threads of torch; default as torch chooses")
    options.add_argument(
        "--cpu-time", action="store_true", help="seconds of this process's one thread, for a machine that others use"
    )
    options.add_argument("--json", type=Path, help="also write the report here")
    return options


def in_turns(tasks: Mapping[str, Task], options: argparse.Namespace, warmups: int = 1) -> dict[str, Seconds]:
    """Run all tasks in turns and return the seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    clock = clock_of(options)
    for turn in range(-warmups, options.repetitions):
        for name, task in tasks.items():
            start = clock()
            task()
            if turn >= 0:
                seconds[name].append(clock() - start)
    return {name: Seconds(statistics.median(values), min(values)) for name, values in seconds.items()}


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    """Return the clock that the options ask for."""
    return time.process_time if options.cpu_time else time.perf_counter


class Report:
    """Collect results, print them as a table, and write them as JSON.

    Args:
        benchmark: name of the script.
        options: its parsed options.
    """

    def __init__(self, benchmark: str, options: argparse.Namespace) -> None:
        if options.threads:
            torch.set_num_threads(options.threads)
        if options.cpu_time and torch.get_num_threads() > 1:
            raise SystemExit("--cpu-time adds up the time of all threads; give --threads 1 with it")
        self.path: Path | None = options.json
        self.run = {
            "benchmark": benchmark,
            "command": shlex.join(["python", f"benchmarks/{benchmark}.py", *sys.argv[1:]]),
            "commit": _commit(),
            "machine": _machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "clock": "CPU time" if options.cpu_time else "wall time",
            "load_before": round(os.getloadavg()[0], 2),
            "repetitions": options.repetitions,
        }
        self.results: list[dict[str, Any]] = []

    def add(self, name: str, value: float, unit: str, **details: Any) -> None:
        """Add one number."""
        self.results.append({"name": name, "value": value, "unit": unit, **details})

    def show(self, title: str | None) -> dict[str, Any]:
        """Print everything, write the JSON file if one was asked for, and return the report."""
        print((title or "").split("\n")[0])
        for key, value in self.run.items():
            print(f"  {key:<12} {value}")
        width = max(len(result["name"]) for result in self.results)
        for result in self.results:
            details = ", ".join(f"{k} {_short(v)}" for k, v in result.items() if k not in ("name", "value", "unit"))
            print(f"  {result['name']:<{width}}  {_short(result['value']):>10} {result['unit']:<12} {details}".rstrip())
        report = {"run": self.run, "results": self.results}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(report, indent=2) + "\n")
        return report


def floating_operations(task: Task) -> int:
    """Count the floating-point operations of matrix products, convolutions and attention in one call.

    A multiplication with its addition counts as two. Element-wise work counts as nothing, as is usual.
    """
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def attention_backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
        # Two products for every one of the forward pass; that the kernel computes the scores again is its own affair.
        return 2 * sdpa_flop_count(query, key, value)

    # torch's table lacks the kernels that the CPU uses.
    kernels = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        task()
    return int(counter.get_total_flops())


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _machine() -> str:
    name = platform.processor() or platform.machine()
    table = Path("/proc/cpuinfo")
    for line in table.read_text().splitlines() if table.is_file() else []:
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
