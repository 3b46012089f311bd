"""Measured peak of matrix products in GFLOP/s, the yardstick of utilization.

A peak is the best of all turns and sizes: whatever disturbs a turn can only slow it down.

    python benchmarks/matmul_peak.py
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from measuring import Report, Task, clock_of, parser

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def square_product(side: int, dtype: torch.dtype) -> Task:
    """Return a task that multiplies two square matrices into a third that exists already."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def best_rate(dtype: torch.dtype, sides: Sequence[int], options: argparse.Namespace, tries: int = 20) -> float:
    """Return the best GFLOP/s of square products over some sizes."""
    clock, best = clock_of(options), 0.0
    for side in sides:
        task = square_product(side, dtype)
        for _ in range(tries):
            start = clock()
            task()
            best = max(best, 2 * side**3 / (clock() - start) / 1e9)
    return best


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    options = parser(__doc__, repetitions=20)
    options.add_argument("--sides", type=int, nargs="+", default=[1024, 1536, 2048, 4096])
    chosen = options.parse_args(arguments)
    report = Report("matmul_peak", chosen)
    for name, dtype in DTYPES.items():
        rates = {side: best_rate(dtype, [side], chosen, chosen.repetitions) for side in chosen.sides}
        for side, rate in rates.items():
            report.add(f"{name}, {side}", rate, "GFLOP/s")
        report.add(f"{name}, peak", max(rates.values()), "GFLOP/s")
    return report.show(__doc__)


if __name__ == "__main__":
    main()
