"""Tensors in [-1, 1], uint8 frames and PIL pictures, one into the other.

Symbols: `pixels` are `(batch, 3, frames, height, width)` floats in [-1, 1]; `frames` are
`(batch, frames, height, width, 3)` bytes, the layout of PIL and of video decoders. Only this room and `data` add or
drop the frame axis: a picture is a clip of one frame.
"""

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor


def to_uint8(pixels: Float[Tensor, "batch 3 frames height width"]) -> UInt8[Tensor, "batch frames height width 3"]:
    """Round pixels in [-1, 1] to bytes, clipping what lies outside.

    Args:
        pixels: any float dtype; -1 is black, 1 is white.

    Returns:
        Bytes on the CPU with colors last: `round(clip((x + 1) / 2 * 255, 0, 255))`.
    """
    levels = ((pixels.detach().float() + 1) / 2 * 255).clamp(0, 255).round()
    return levels.permute(0, 2, 3, 4, 1).to("cpu", torch.uint8).contiguous()


def from_uint8(frames: UInt8[Tensor, "batch frames height width 3"]) -> Float[Tensor, "batch 3 frames height width"]:
    """Map bytes to float32 pixels in [-1, 1]; `to_uint8` returns exactly the same bytes."""
    return (frames.permute(0, 4, 1, 2, 3).float() / 255 * 2 - 1).contiguous()


def to_pil(pixels: Float[Tensor, "batch 3 1 height width"]) -> list[Image.Image]:
    """Turn clips of one frame into PIL pictures."""
    return [Image.fromarray(frames[0].numpy()) for frames in to_uint8(pixels)]


def to_pil_clips(pixels: Float[Tensor, "batch 3 frames height width"]) -> list[list[Image.Image]]:
    """Turn clips into lists of PIL frames."""
    return [[Image.fromarray(frame.numpy()) for frame in frames] for frames in to_uint8(pixels)]


def from_pil(picture: Image.Image) -> Float[Tensor, "1 3 1 height width"]:
    """Turn an opaque PIL picture of any mode into a clip of one frame."""
    content = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return from_uint8(content.reshape(1, 1, picture.height, picture.width, 3))
