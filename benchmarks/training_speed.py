"""Training pictures per second of a class refiner: from pixels, encoded as they come, and from a code store.

Both run the package's own training loop over the same pictures, in turns. One update is measured from batch to batch:
reading, encoding, forward and backward pass, optimizer and averaging.

    python benchmarks/training_speed.py --preset emoji-class --tokenizer DIR
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genrefine import presets, zoo
from genrefine.corruption import LogitNormalSignal
from genrefine.data import CodeStore
from genrefine.experiments.settings import RefinerRun
from genrefine.experiments.sources import open_source
from genrefine.refiner import ClassRefiner
from genrefine.tokenizer import VisualTokenizer
from genrefine.training.loop import Update, train
from genrefine.training.refiner_task import ClassRefinerTask
from measuring import Report, clock_of, parser


class TimedTask(ClassRefinerTask):
    """Note when each update begins; show and save nothing."""

    clock: Callable[[], float]
    times: list[float]

    def updates(self, networks: Mapping[str, nn.Module], batch: Any, generator: torch.Generator) -> Iterator[Update]:
        """Note the time and go on as usual."""
        self.times.append(self.clock())
        yield from super().updates(networks, batch, generator)

    def preview(self, network: nn.Module) -> None:
        """Show nothing."""

    def save(self, network: nn.Module, folder: Path) -> None:
        """Save nothing."""


def update_seconds(
    run: RefinerRun, dataset: Any, tokenizer: VisualTokenizer, from_pixels: bool, clock: Callable[[], float]
) -> list[float]:
    """Train for a few updates and return how long each took."""
    _, rows, columns = tokenizer.grid(1, run.data.size, run.data.size)
    refiner = ClassRefiner(
        code_channels=tokenizer.code_channels,
        code_classes=tokenizer.code_classes,
        grid=(rows, columns),
        num_classes=len(dataset.class_names),
        **run.refiner.arguments(),
    )
    task = TimedTask(
        refiner,
        dataset,
        LogitNormalSignal(run.loss.signal_mean, run.loss.signal_std, run.loss.signal_shift),
        label_dropout=run.loss.label_dropout,
        tokenizer=tokenizer if from_pixels else None,
    )
    task.clock, task.times = clock, []
    with tempfile.TemporaryDirectory() as folder:
        train(task, run.training, Path(folder) / "run")
    return [after - before for before, after in zip(task.times, task.times[1:], strict=False)]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    options = parser(__doc__, repetitions=2)
    options.add_argument("--preset", default="emoji-class")
    options.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a setting of the preset")
    options.add_argument("--tokenizer", type=Path, help="folder; default is the tokenizer of the shipped model")
    options.add_argument("--updates", type=int, default=12, help="measured in each turn")
    options.add_argument("--warmups", type=int, default=4, help="updates before them that are not measured")
    chosen = options.parse_args(arguments)
    report = Report("training_speed", chosen)
    run = presets.get(chosen.preset, dict(pair.split("=", 1) for pair in chosen.set)).settings
    assert isinstance(run, RefinerRun), f"{chosen.preset} does not train a refiner"
    steps = chosen.warmups + chosen.updates + 1
    at_the_end = dict.fromkeys(("num_steps", "log_every", "preview_every", "save_every"), steps)
    run = replace(run, training=replace(run.training, **at_the_end))
    folder = chosen.tokenizer or zoo.path("emoji-class") / "visual_tokenizer"
    tokenizer = VisualTokenizer.from_pretrained(folder).eval().requires_grad_(False)
    source = open_source(run.data)
    taken: dict[str, list[float]] = {"pixels": [], "codes": []}
    with tempfile.TemporaryDirectory() as scratch:
        store = CodeStore.create(Path(scratch) / "codes", tokenizer, source, flips=run.flip)
        for _ in range(chosen.repetitions):
            taken["pixels"] += update_seconds(run, source, tokenizer, True, clock_of(chosen))[chosen.warmups :]
            taken["codes"] += update_seconds(run, store, tokenizer, False, clock_of(chosen))[chosen.warmups :]
    medians = {name: statistics.median(values) for name, values in taken.items()}
    for name, median in medians.items():
        report.add(f"from {name}", run.training.batch_size / median, "pictures/s", seconds_per_update=median)
    report.add("ratio", medians["pixels"] / medians["codes"], "times faster from codes")
    return report.show(__doc__)


if __name__ == "__main__":
    main()
