"""How near a reconstruction is to its original, picture by picture.

PSNR = 10 log10(range^2 / mean squared error) in decibels; SSIM as in Wang et al. 2004 with an 11-tap Gaussian window of
sigma 1.5. Pixels are clipped to [-1, 1] and not rounded to bytes; the range is 2 (or 1 after mapping to [0, 1], which
SSIM needs because its luminance term is not free of offsets). A clip's value is the mean over its frames.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from genrefine.errors import GenrefineError


def mean_squared_error(
    pixels: Float[Tensor, "batch 3 frames height width"], original: Float[Tensor, "batch 3 frames height width"]
) -> Float[Tensor, "batch frames"]:
    """Return the mean squared error of every frame, in units of [-1, 1]."""
    difference = pixels.float().clamp(-1, 1) - original.float().clamp(-1, 1)
    return difference.square().mean(dim=(1, 3, 4))


def psnr_of_error(error: float) -> float:
    """Return the PSNR in decibels of a mean squared error in units of [-1, 1]; infinite for none."""
    return 10 * math.log10(4 / error) if error else math.inf


def psnr(
    pixels: Float[Tensor, "batch 3 frames height width"], original: Float[Tensor, "batch 3 frames height width"]
) -> Float[Tensor, "batch"]:
    """Return the PSNR of every clip in decibels, infinite where it equals its original."""
    return (10 * torch.log10(4 / mean_squared_error(pixels, original))).mean(dim=1)


def ssim(
    pixels: Float[Tensor, "batch 3 frames height width"], original: Float[Tensor, "batch 3 frames height width"]
) -> Float[Tensor, "batch"]:
    """Return the SSIM of every clip, 1 where it equals its original.

    Raises:
        GenrefineError: torchmetrics is not installed, or pictures are smaller than the window.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise GenrefineError("SSIM needs torchmetrics, which is not installed; pip install 'genrefine[eval]'") from None
    if min(pixels.shape[-2:]) < 11:
        raise GenrefineError(f"SSIM needs pictures of 11 pixels a side or more; got {tuple(pixels.shape[-2:])}")
    frames, original_frames = (
        rearrange(x.float().clamp(-1, 1) / 2 + 0.5, "batch rgb frames height width -> (batch frames) rgb height width")
        for x in (pixels, original)
    )
    values = structural_similarity_index_measure(frames, original_frames, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return rearrange(values, "(batch frames) -> batch frames", batch=len(pixels)).mean(dim=1)
