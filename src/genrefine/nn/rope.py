"""Rotary position embedding over a two-dimensional grid, and the tables that never change.

A head of size `head_dim` is read as `head_dim / 2` consecutive pairs `(x_0, x_1)`. The first half of the pairs turns
with the row of a token, the second half with its column:

    theta_j = base^(-2j / (head_dim / 2)),    a = position * theta_j
    (x_0, x_1) -> (x_0 cos a - x_1 sin a,  x_1 cos a + x_0 sin a)

Angles are float32 whatever the network runs in: a rotation by 63 rows is lost in bfloat16. Layout of arXiv 2604.13030,
class-to-image network (JiT family).
"""

import torch
from jaxtyping import Float
from torch import Tensor

# (cos, sin), each one value per token and pair.
Rotation = tuple[Float[Tensor, "tokens pairs"], Float[Tensor, "tokens pairs"]]


class FixedTable:
    """Keep a constant float32 table that dtype casts, meta initialization and state dicts cannot touch.

    A module buffer would be rounded by `module.to(torch.bfloat16)` and left empty by a module built on the meta device.
    """

    def __init__(self, table: Float[Tensor, "rows columns"]) -> None:
        self._master = table
        self._copies: dict[torch.device, Tensor] = {table.device: table}

    def on(self, device: torch.device) -> Float[Tensor, "rows columns"]:
        """Return the table on `device`, copied there once."""
        if device not in self._copies:
            self._copies[device] = self._master.to(device)
        return self._copies[device]


class FixedRotation:
    """Keep the cosines and sines of fixed angles."""

    def __init__(self, angles: Float[Tensor, "tokens pairs"]) -> None:
        self._cos, self._sin = FixedTable(angles.cos()), FixedTable(angles.sin())

    def on(self, device: torch.device) -> Rotation:
        """Return both tables on `device`."""
        return self._cos.on(device), self._sin.on(device)


def axis_angles(num_positions: int, num_pairs: int, base: float = 10000.0) -> Float[Tensor, "positions pairs"]:
    """Return the angle of every pair at positions 0, 1, .. of one axis, in radians, on the CPU."""
    exponents = torch.arange(num_pairs, dtype=torch.float64, device="cpu") / num_pairs
    return torch.outer(torch.arange(num_positions, dtype=torch.float64, device="cpu"), base**-exponents).float()


def grid_angles(height: int, width: int, head_dim: int) -> Float[Tensor, "tokens pairs"]:
    """Return the angles of all tokens of a grid in raster order: row pairs first, then column pairs.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        head_dim: size of one attention head, a multiple of 4.
    """
    rows = axis_angles(height, head_dim // 4).repeat_interleave(width, dim=0)
    columns = axis_angles(width, head_dim // 4).repeat(height, 1)
    return torch.cat([rows, columns], dim=1)


def rotate_pairs(
    x: Float[Tensor, "*batch tokens head_dim"], rotation: Rotation
) -> Float[Tensor, "*batch tokens head_dim"]:
    """Turn every pair by the angle of its token; write all first members, then all second members.

    Reordering the channels of queries and keys alike changes no attention score, and contiguous halves vectorize:
    compiled for a CPU, the backward pass is twice as fast as with the pairs written back in place.
    """
    cos, sin = rotation
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, dim=-1)
