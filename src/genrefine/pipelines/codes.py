"""From pixels to codes and back, as methods of every pipeline: each picture by itself, on the pipeline's device."""

from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrefine.sampling.records import RefinementStep
from genrefine.tokenizer import VisualTokenizer


class CodesMixin:
    """Encode and decode with the pipeline's visual tokenizer, wherever it is."""

    visual_tokenizer: Any
    _execution_device: torch.device

    def enable_tiling(self, tile: int = 32, overlap: int = 8) -> None:
        """Decode large pictures tile by tile, see `VisualTokenizer.enable_tiling`."""
        self.visual_tokenizer.enable_tiling(tile, overlap)

    def disable_tiling(self) -> None:
        """Decode every picture as a whole."""
        self.visual_tokenizer.disable_tiling()

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "batch 3 frames height width"]) -> Int[Tensor, "batch channels t h w"]:
        """Return the codes of pixels in [-1, 1], on the pipeline's device."""
        encode: Any = apply_forward_hook(VisualTokenizer.encode)  # brings an offloaded tokenizer to its device
        codes: Tensor = encode(self.visual_tokenizer, pixels.to(self._execution_device, self.visual_tokenizer.dtype))
        return codes

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "batch channels t h w"]) -> Float[Tensor, "batch 3 frames height width"]:
        """Decode codes to pixels in [-1, 1], each picture by itself so that it cannot depend on the others."""
        return self._decoded(VisualTokenizer.decode, codes)

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "batch dim t h w"]) -> Float[Tensor, "batch 3 frames height width"]:
        """Decode latents to pixels; as `decode`, with values in place of codes."""
        return self._decoded(VisualTokenizer.decode_whole, latents)

    def show(
        self, step: RefinementStep, rows: Bool[Tensor, "active"] | None = None
    ) -> Float[Tensor, "shown 3 frames height width"]:
        """Decode what a step predicts to pixels in [-1, 1]; of the last step, the result.

        Args:
            step: one that `refine` or `steps` yielded, or the "record" of a callback.
            rows: True for the samples to show; by default all.
        """
        return self.decode_latents(step.latents(self.visual_tokenizer.hbq, rows))

    def _decoded(self, decode: Any, batch: Tensor) -> Tensor:
        decode_one = apply_forward_hook(decode)  # brings an offloaded tokenizer to its device
        device = self._execution_device
        return torch.cat([decode_one(self.visual_tokenizer, one.to(device)) for one in batch.split(1)]).float()
