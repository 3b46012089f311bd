"""Every setting of a training run, in the words of the command line (``--set training.learning_rate=1e-4``)."""

from dataclasses import dataclass
from typing import Literal

from genrefine.errors import GenrefineError
from genrefine.training.ranges import check_ranges, number


@dataclass(frozen=True)
class TrainingSettings:
    """Say how a network is optimized.

    Args:
        num_steps: optimizer updates.
        batch_size: items per update over all processes and accumulated micro-batches.
        gradient_accumulation: micro-batches per update; memory falls, the items and their weight in the update stay,
            random draws are those of each micro-batch.
        optimizer: "adamw" (published), or "muon", see `genrefine.training.optimizers`.
        learning_rate: peak rate, reached after ``warmup_steps``.
        decay: "constant"; "cosine" down to a hundredth of the peak at ``num_steps``; "trapezoid" is constant but for
            the last three tenths, which fall linearly to a hundredth.
        betas, weight_decay: AdamW's; one-dimensional parameters are never decayed.
        clip_norm: largest gradient norm; 0 does not clip.
        ema_decay: decay of the averaged weights that previews, results and evaluation use.
        mixed_precision: accelerate's autocast dtype, "no", "bf16" or "fp16"; "auto" measures at the start which of the
            first two is faster, and a run that is continued keeps what it began with.
        gradient_checkpointing: recompute activations in the backward pass.
        compile: run the forward pass through ``torch.compile``.
        seed: decides initial weights, the order of items and every random draw; a resumed run repeats them exactly.
        log_every, preview_every, save_every: periods in updates.
        keep_checkpoints: how many of the newest training states stay on disk.
        num_workers: processes that load data; 0 loads in the main process.
    """

    num_steps: int = number(1000, at_least=1, at_most=10**9)
    batch_size: int = number(64, at_least=1, at_most=10**6)
    gradient_accumulation: int = number(1, at_least=1, at_most=10**6)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = number(1e-4, above=0, at_most=10**6)
    warmup_steps: int = number(100, at_least=0, at_most=10**9)
    decay: Literal["constant", "cosine", "trapezoid"] = "constant"
    betas: tuple[float, float] = number((0.9, 0.95), at_least=0, below=1)
    weight_decay: float = number(0.0, at_least=0, at_most=100)
    clip_norm: float = number(1.0, at_least=0, at_most=10**9)
    ema_decay: float = number(0.9999, at_least=0, below=1)
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: int = number(0, at_least=0, at_most=2**32 - 1)
    log_every: int = number(20, at_least=1, at_most=10**9)
    preview_every: int = number(500, at_least=1, at_most=10**9)
    save_every: int = number(500, at_least=1, at_most=10**9)
    keep_checkpoints: int = number(2, at_least=1, at_most=10**9)
    num_workers: int = number(0, at_least=0, at_most=1024)

    def __post_init__(self) -> None:
        check_ranges(self, "training")
        if self.batch_size % self.gradient_accumulation:
            raise GenrefineError(
                f"training.batch_size must be a multiple of gradient_accumulation {self.gradient_accumulation}; "
                f"got {self.batch_size}"
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of update ``step`` as a share of the peak."""
        from math import cos, pi

        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return 1.0
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps))
        if self.decay == "trapezoid":
            return 0.01 + 0.99 * min(1.0, (self.num_steps - step) / (0.3 * self.num_steps))
        return 0.01 + 0.99 * (1 + cos(pi * progress)) / 2
