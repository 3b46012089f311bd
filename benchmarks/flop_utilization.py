"""Share of the machine's measured bf16 matrix-product peak that a class refiner reaches, sampling and training.

Floating-point operations are those of the network's matrix products and attention, counted by torch on the network
itself; a training update counts forward and backward pass. Everything else (element-wise work, drawing, the optimizer)
takes time and counts as nothing. The peak is the best product before and after. Where a batch does not make a
multiple of eight rows, the few operations on padding count, too.

    python benchmarks/flop_utilization.py --size B
"""

from typing import Any

import torch

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.corruption import corrupt
from genrefine.refiner import ClassRefiner, class_refiner_config
from genrefine.sampling.budgets import FixedSteps
from genrefine.sampling.guidance import Guidance, apply_guidance
from genrefine.sampling.random_source import SeededSource
from genrefine.sampling.sampler import refine
from genrefine.sampling.settings import SamplingSettings
from genrefine.training.refiner_task import element_losses
from matmul_peak import best_rate
from measuring import Report, Task, floating_operations, in_turns, parser


def sampling(config: dict[str, Any], batch: int, steps: int, compiled: bool) -> tuple[Task, int]:
    """Return a task that refines a batch with guidance, in bfloat16, and its operations."""
    refiner = ClassRefiner(**config).bfloat16().eval()
    shape = (config["code_channels"], 1, *config["grid"])
    condition = ClassCondition(torch.arange(batch) % config["num_classes"], config["num_classes"])
    settings = SamplingSettings(steps=FixedSteps(steps), guidance=Guidance(2.0))
    doubled = condition.joined(condition.null())
    codes = torch.zeros(2 * batch, *shape, dtype=torch.int32)
    with torch.no_grad():
        operations = floating_operations(lambda: refiner(codes, torch.zeros(2 * batch), doubled))
    if compiled:
        refiner.compile()

    def task() -> None:
        draws = SeededSource(range(batch))
        for _ in refine(
            apply_guidance(refiner, condition, settings.guidance), draws, shape, config["code_classes"], settings
        ):
            pass

    return task, steps * operations


def training(config: dict[str, Any], batch: int, compiled: bool) -> tuple[Task, int]:
    """Return a task that makes one update under bfloat16 autocast, and its operations."""
    refiner = ClassRefiner(**config).train()
    optimizer = torch.optim.AdamW(refiner.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, config["code_channels"], 1, *config["grid"])
    codes = torch.randint(config["code_classes"], shape, generator=generator, dtype=torch.int32)
    signal = torch.rand(batch, generator=generator)
    condition = ClassCondition(torch.arange(batch) % config["num_classes"], config["num_classes"])
    noisy = corrupt(codes, signal, config["code_classes"], generator).noisy

    def passes() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = refiner(noisy, signal, condition)
        element_losses(logits, codes).mean().backward()

    def task() -> None:
        passes()
        optimizer.step()
        optimizer.zero_grad()

    operations = floating_operations(passes)
    if compiled:
        refiner.compile()
    return task, operations


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    options = parser(__doc__, repetitions=3)
    options.add_argument("--size", default="B", help="published size of the refiner")
    options.add_argument("--layout", default="index", choices=["index", "bit"])
    options.add_argument("--width", type=int, help="in place of the size's own")
    options.add_argument("--depth", type=int, help="in place of the size's own")
    options.add_argument("--grid", type=int, default=16, help="rows and columns of the latent map")
    options.add_argument("--sampling-batch", type=int, default=4, help="pictures; guidance doubles them")
    options.add_argument("--training-batch", type=int, default=8)
    options.add_argument("--steps", type=int, default=3, help="refinement steps")
    options.add_argument(
        "--peak-sides", type=int, nargs="+", default=[1024, 1536, 2048], help="products that set the peak"
    )
    options.add_argument("--compile", action="store_true", help="through torch.compile")
    chosen = options.parse_args(arguments)
    report = Report("flop_utilization", chosen)
    config = class_refiner_config(chosen.size, chosen.layout, grid=(chosen.grid, chosen.grid))
    if chosen.width:
        config["width"] = chosen.width
    if chosen.depth:
        config |= {"depth": chosen.depth, "in_context_start": min(config["in_context_start"], chosen.depth - 1)}
    tasks: dict[str, Task] = {}
    operations: dict[str, int] = {}
    tasks["sampling"], operations["sampling"] = sampling(config, chosen.sampling_batch, chosen.steps, chosen.compile)
    tasks["training"], operations["training"] = training(config, chosen.training_batch, chosen.compile)
    before = best_rate(torch.bfloat16, chosen.peak_sides, chosen)
    seconds = in_turns(tasks, chosen)
    peak = max(before, best_rate(torch.bfloat16, chosen.peak_sides, chosen))
    report.add("peak", peak, "GFLOP/s")
    for name in ("sampling", "training"):
        taken = seconds[name].median
        rate = operations[name] / taken / 1e9
        report.add(name, rate, "GFLOP/s", seconds=taken, operations=operations[name])
        report.add(f"{name}, utilization", 100 * rate / peak, "% of peak")
    return report.show(__doc__)


if __name__ == "__main__":
    main()
