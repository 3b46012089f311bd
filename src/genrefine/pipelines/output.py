"""What a pipeline returns, and how it is turned into the picture types of callers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diffusers.utils.outputs import BaseOutput
from jaxtyping import Float, Float32, Int
from PIL import Image
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.media.pixels import to_pil, to_pil_clips
from genrefine.pipelines.request import Request
from genrefine.sampling.records import RefinementResult

OUTPUT_TYPES = ("pil", "np", "pt", "codes", "latent")
"""Spellings of `output_type`; "latent" is diffusers' word for codes."""

Images = list[Image.Image] | Float32[np.ndarray, "batch height width 3"] | Float[Tensor, "..."] | Int[Tensor, "..."]


@dataclass
class ClassPipelineOutput(BaseOutput):  # type: ignore[misc]
    """Pictures and how they came about; `pipe(class_labels, seed=seeds, **settings)` makes the same ones again.

    Args:
        images: PIL pictures; or float32 in [0, 1], `(batch, height, width, 3)` for "np", `(batch, 3, height, width)`
            for "pt"; or the codes for "codes".
        class_labels: class name of each picture, None for no class.
        seeds: seed of each picture.
        num_steps: refinements of each picture.
        entropy: normalized entropy of each picture at each of its steps, in [0, 1].
        num_evaluations: network evaluations of each picture, guidance included.
        codes: clean codes of each picture.
        settings: sampling arguments of the call, defaults filled in; JSON can hold them.
        changed: what a callback changed, in words; then the settings alone do not make the pictures again.
    """

    images: Images
    class_labels: list[str | None]
    seeds: list[int]
    num_steps: list[int]
    entropy: list[list[float]]
    num_evaluations: list[int]
    codes: Int[Tensor, "batch channels t h w"]
    settings: dict[str, Any]
    changed: list[str] = field(default_factory=list)


Clips = list[list[Image.Image]] | Float32[np.ndarray, "batch frames height width 3"] | Float[Tensor, "..."]


@dataclass
class TextPipelineOutput(BaseOutput):  # type: ignore[misc]
    """Pictures or clips and how they came about; `pipe(prompts, seed=seeds, **settings)` makes the same ones again.

    Args:
        images: stills, as in `ClassPipelineOutput`; None for clips.
        frames: clips, one list of PIL frames each; or float32 in [0, 1], `(batch, frames, height, width, 3)` for "np",
            `(batch, frames, 3, height, width)` for "pt"; or the codes for "codes"; None for stills.
        prompts: prompt of each sample, None where embeddings were given.
        seeds: seed of each sample.
        num_steps: refinements of each sample.
        entropy: normalized entropy of each sample at each of its steps, in [0, 1].
        num_evaluations: network evaluations of each sample, guidance included.
        codes: clean codes of each sample, given first frames included.
        settings: arguments of the call, defaults filled in, but for first frames and embeddings; JSON can hold them.
        changed: what a callback changed, in words; then the settings alone do not make the samples again.
    """

    images: Images | None
    frames: Clips | Images | None
    prompts: list[str | None]
    seeds: list[int]
    num_steps: list[int]
    entropy: list[list[float]]
    num_evaluations: list[int]
    codes: Int[Tensor, "batch channels t h w"]
    settings: dict[str, Any]
    changed: list[str] = field(default_factory=list)


def facts_of(request: Request, result: RefinementResult, changed: list[str]) -> dict[str, Any]:
    """Return what every output says of how its samples came about."""
    return {
        "seeds": request.seeds,
        "num_steps": result.num_steps.tolist(),
        "entropy": [list(trace) for trace in result.entropy],
        "num_evaluations": result.num_evaluations.tolist(),
        "codes": result.codes,
        "settings": request.settings,
        "changed": changed,
    }


def require_output_type(output_type: str) -> None:
    """Refuse an output type that does not exist."""
    if output_type not in OUTPUT_TYPES:
        raise GenrefineError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}; got {output_type!r}")


def to_output(pixels: Float[Tensor, "batch 3 1 height width"], output_type: str) -> Images:
    """Turn pixels in [-1, 1] into the pictures that a caller asked for.

    Args:
        pixels: clips of one frame.
        output_type: "pil", "np" or "pt".
    """
    if output_type == "pil":
        return to_pil(pixels)
    unit = ((pixels[:, :, 0].float() + 1) / 2).clamp(0, 1)
    if output_type == "np":
        channels_last: Float32[np.ndarray, "batch height width 3"] = unit.permute(0, 2, 3, 1).cpu().numpy()
        return channels_last
    return unit


def to_clips(pixels: Float[Tensor, "batch 3 frames height width"], output_type: str) -> Clips:
    """Turn pixels in [-1, 1] into the clips that a caller asked for.

    Args:
        pixels: clips.
        output_type: "pil", "np" or "pt".
    """
    if output_type == "pil":
        return to_pil_clips(pixels)
    unit = ((pixels.float() + 1) / 2).clamp(0, 1)
    if output_type == "np":
        channels_last: Float32[np.ndarray, "batch frames height width 3"] = unit.permute(0, 2, 3, 4, 1).cpu().numpy()
        return channels_last
    return unit.transpose(1, 2)
