"""Where the tokens of a text refiner stand: frame, row and column, on a virtual grid that all picture sizes share.

The frame axis is also the line on which the parts of a sequence stand: text token j at j, the signal token at 512,
frame f at 600 + f. Rows and columns of a grid of `h` rows are stretched over the `H` rows of a virtual grid,

    row(i) = round(i * H / h),    H = int(r W),    W = sqrt(225 * 75 / r),    columns alike over int(W)

where r is the published aspect ratio (height / width) nearest to the grid's: a small and a large picture of one shape
span the same angles. Released text network of arXiv 2604.13030; rounding is half to even, in float32.
"""

import math

import torch
from jaxtyping import Int
from torch import Tensor

from genrefine.resolutions import published_ratio

SIGNAL_POSITION = 512
FIRST_FRAME_POSITION = 600
VIRTUAL_AREA = 225 * 75


def stretched_positions(length: int, virtual_length: int) -> Int[Tensor, "positions"]:
    """Return the positions 0 .. length - 1 spread over a longer axis, on the CPU."""
    steps = torch.arange(length, dtype=torch.float32, device="cpu") * (virtual_length / length)
    return steps.round().int()


def grid_positions(frames: int, height: int, width: int, first_frame: int = 0) -> Int[Tensor, "tokens 3"]:
    """Return (frame, row, column) positions of all tokens of a clip in raster order, on the CPU.

    Args:
        frames: latent frames.
        height: rows of the latent grid.
        width: columns of the latent grid.
        first_frame: number of the clip's frame that comes first here.
    """
    ratio = published_ratio(height, width)
    virtual_width = math.sqrt(VIRTUAL_AREA / ratio)
    return torch.cartesian_prod(
        FIRST_FRAME_POSITION + first_frame + torch.arange(frames, dtype=torch.int32, device="cpu"),
        stretched_positions(height, int(ratio * virtual_width)),
        stretched_positions(width, int(virtual_width)),
    )


def line_positions(first: int, num_tokens: int) -> Int[Tensor, "tokens 3"]:
    """Return the positions of tokens that stand on the frame axis alone: text from 0, the signal token at 512."""
    positions = torch.zeros(num_tokens, 3, dtype=torch.int32, device="cpu")
    positions[:, 0] = first + torch.arange(num_tokens, dtype=torch.int32, device="cpu")
    return positions
