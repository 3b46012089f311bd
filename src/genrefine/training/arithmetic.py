"""Which arithmetic a machine is good at, found by a measurement of a tenth of a second.

Processors differ by a factor of a hundred: with AMX a bfloat16 product is ten times faster than one in float32; with
AVX-512 BF16 as fast or somewhat faster; with AVX2 alone it is emulated and fifty times slower. So what is best cannot
be a default of the library, and is not read from processor flags, which say what exists and not what is fast.
"""

import time
from dataclasses import dataclass
from functools import lru_cache

import torch

SIDE = 256  # of the product: large enough for its arithmetic to dominate, small enough for 1 GFLOP/s


@dataclass(frozen=True)
class Arithmetic:
    """Say what one matrix product costs in float32 and bfloat16, in GFLOP/s."""

    float32: float
    bfloat16: float

    @property
    def autocast(self) -> str:
        """Return accelerate's name of the better precision: "bf16" where it is clearly faster, else "no"."""
        return "bf16" if self.bfloat16 > 1.2 * self.float32 else "no"

    @property
    def dtype(self) -> torch.dtype:
        """Return the faster dtype of a plain product."""
        return torch.bfloat16 if self.bfloat16 > 1.2 * self.float32 else torch.float32

    def __str__(self) -> str:
        name = "bfloat16" if self.autocast == "bf16" else "float32"
        return (
            f"{name} (a matrix product runs at {self.float32:.3g} GFLOP/s in float32, {self.bfloat16:.3g} in bfloat16)"
        )


@lru_cache(maxsize=4)
def measure(device_type: str, num_threads: int) -> Arithmetic:
    """Return the speed of products on a device, measured once a process and number of threads."""
    return Arithmetic(*(_speed(device_type, dtype) for dtype in (torch.float32, torch.bfloat16)))


def arithmetic_of(device: torch.device | str) -> Arithmetic:
    """Return the speed of products on ``device``, with the number of threads that torch uses now."""
    return measure(torch.device(device).type, torch.get_num_threads())


def _speed(device_type: str, dtype: torch.dtype) -> float:
    a = torch.ones(SIDE, SIDE, device=device_type, dtype=dtype)
    try:
        _wait(a @ a)  # the first call sets kernels up
    except RuntimeError:  # a device without this dtype
        return 0.0
    best = float("inf")
    start = time.perf_counter()
    while time.perf_counter() - start < 0.02:
        begin = time.perf_counter()
        _wait(a @ a)
        best = min(best, time.perf_counter() - begin)
    return 2 * SIDE**3 / best / 1e9


def _wait(x: torch.Tensor) -> None:
    """Wait until a device has computed ``x``; its calls return before."""
    if x.device.type != "cpu":
        x[0, 0].item()
