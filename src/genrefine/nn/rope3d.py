"""Rotary position embedding over three axes, such as frame, row and column.

A head of size `head_dim` is read as `head_dim / 2` consecutive pairs, `n = head_dim // 6` of them turned by the first
position, `n` by the second, the rest by the third. On an axis with `m` pairs and at position `p`,

    theta_i = base^(-i / m),    a = p * theta_i,    (x_0, x_1) -> (x_0 cos a - x_1 sin a,  x_1 cos a + x_0 sin a)
"""

import torch
from jaxtyping import Int
from torch import Tensor

from genrefine.nn.rope import Rotation


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
