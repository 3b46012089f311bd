"""Rotary position embedding over frame, row and column, on a virtual grid that all picture sizes share.

A head of size `head_dim` is read as `head_dim / 2` consecutive pairs, `n = head_dim // 6` of them turned by the frame
position, `n` by the row, the rest by the column. On an axis with `m` pairs and at position `p`,

    theta_i = base^(-i / m),    a = p * theta_i,    (x_0, x_1) -> (x_0 cos a - x_1 sin a,  x_1 cos a + x_0 sin a)

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

from genrefine.nn.rope import Rotation

ASPECT_RATIOS = (3.0, 2.5, 2.0, 16 / 9, 1.5, 4 / 3, 1.16, 1.0, 1 / 1.16, 0.75, 2 / 3, 9 / 16, 0.5, 0.4, 1 / 3)
"""Published heights over widths."""
SIGNAL_POSITION = 512
FIRST_FRAME_POSITION = 600
VIRTUAL_AREA = 225 * 75


def published_ratio(height: int, width: int) -> float:
    """Return the published aspect ratio nearest to height / width, cut to three decimals as it is published."""
    ratios = [int(ratio * 1000) / 1000 for ratio in ASPECT_RATIOS]
    return min(ratios, key=lambda ratio: abs(ratio - height / width))


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


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Return how many pairs of a head turn with frame, row and column."""
    third = head_dim // 2 // 3
    return third, third, head_dim // 2 - 2 * third


def rotation_at(positions: Int[Tensor, "tokens 3"], head_dim: int, base: float = 10000.0) -> Rotation:
    """Return cosines and sines of every token's angles in float32, on the CPU.

    Args:
        positions: frame, row and column of each token.
        head_dim: size of one attention head, even and at least 6.
        base: of the frequencies.
    """
    angles = []
    for axis, pairs in enumerate(axis_pairs(head_dim)):
        # float32 in this order, as published: at frame 600 another rounding moves the angles by 3e-5.
        frequencies = 1 / base ** (torch.arange(pairs, dtype=torch.float32, device="cpu") / pairs)
        angles.append(torch.outer(positions[:, axis].cpu().float(), frequencies))
    joined = torch.cat(angles, dim=1)
    return joined.cos(), joined.sin()
