"""Draw many pictures or clips of prompts, so that an interrupted run goes on where it stopped.

Sample i has seed i and the i-th prompt, so that the set is the same however it is cut into batches.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from genrefine.errors import GenrefineError
from genrefine.evaluation.sample_folder import draw_batches
from genrefine.evaluation.samples import run_of
from genrefine.media.pixels import from_uint8


@runtime_checkable
class TextSampler(Protocol):
    """What an evaluation asks of a text pipeline."""

    refiner: nn.Module
    visual_tokenizer: Any
    text_encoder: nn.Module
    sampler: Any

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def __call__(self, prompt: Any, **arguments: Any) -> Any:
        """Make pictures or clips."""
        ...


@dataclass(frozen=True)
class PromptSamples:
    """Pictures or clips of seeds 0, 1, 2, ...

    Args:
        frames: bytes, colors last.
        num_steps: refinements of each sample.
        num_evaluations: network evaluations of each sample, guidance included.
    """

    frames: UInt8[Tensor, "samples frames height width 3"]
    num_steps: Int[Tensor, "samples"]
    num_evaluations: Int[Tensor, "samples"]

    @property
    def pixels(self) -> Float[Tensor, "samples 3 frames height width"]:
        """The samples in [-1, 1]."""
        return from_uint8(self.frames)


def draw_prompts(
    pipe: TextSampler,
    prompts: Sequence[str],
    batch_size: int = 16,
    folder: Path | None = None,
    progress: bool = True,
    num_frames: int = 1,
    first_frames: Float[Tensor, "samples 3 height width"] | None = None,
    **sampling: Any,
) -> PromptSamples:
    """Make one sample per prompt, with seeds 0, 1, 2, ...

    Args:
        pipe: the pipeline.
        prompts: what each sample shows.
        batch_size: samples per call; it changes the speed and not the samples.
        folder: where finished batches are kept; a second run continues from there.
        progress: show a progress bar.
        num_frames: 1 for pictures.
        first_frames: first frame of each sample, in [0, 1].
        sampling: arguments of the pipeline such as `num_inference_steps` or `adaptive`.

    Raises:
        GenrefineError: no prompts, or the folder belongs to another run.
    """
    if not prompts:
        raise GenrefineError("samples need at least one prompt; got none")
    claim = run_of(pipe, (pipe.refiner, pipe.visual_tokenizer, pipe.text_encoder), sampling)
    claim |= {"prompts": list(prompts), "num_frames": num_frames, "first_frames": _digest(first_frames)}

    def make(start: int, end: int) -> dict[str, Tensor]:
        given: dict[str, Any] = {} if first_frames is None else {"first_frame": list(first_frames[start:end])}
        seeds = list(range(start, end))
        output = pipe(
            list(prompts[start:end]), seed=seeds, num_frames=num_frames, output_type="pt", **given, **sampling
        )
        unit = output.images[:, None] if num_frames == 1 else output.frames
        return {
            "frames": (unit * 255).round().permute(0, 1, 3, 4, 2).to("cpu", torch.uint8).contiguous(),
            "num_steps": torch.as_tensor(output.num_steps),
            "num_evaluations": torch.as_tensor(output.num_evaluations),
        }

    return PromptSamples(**draw_batches(len(prompts), batch_size, make, folder, claim, progress))


def _digest(frames: Tensor | None) -> str | None:
    return None if frames is None else hashlib.sha256(frames.contiguous().numpy().tobytes()).hexdigest()
