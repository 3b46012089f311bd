"""Embeddings of a scalar and of a place on a grid.

    sinusoid(s)_j = cos(s w_j), then sin(s w_j),   w_j = 10000^(-j / half),  j = 0 .. half - 1

The scalar enters as it is: a signal in [0, 1] is not multiplied by 1000 (arXiv 2604.13030, released network). The grid
table is that of MAE (He et al. 2021): its first half encodes the column, its second the row, each as [sin | cos].
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from genrefine.nn.layers import batch_invariant
from genrefine.nn.rope import axis_angles


def sinusoid(scalars: Float[Tensor, "batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """Return `dim` cosine and sine features of each scalar in float32; `dim` is even."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=scalars.device) / half
    angles = scalars.float()[:, None] * 10000.0**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_sinusoid(height: int, width: int, dim: int) -> Float[Tensor, "tokens dim"]:
    """Return the fixed position features of all tokens of a grid in raster order; `dim` is a multiple of 4."""
    rows = axis_angles(height, dim // 4).repeat_interleave(width, dim=0)
    columns = axis_angles(width, dim // 4).repeat(height, 1)
    return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=1)


class ScalarEmbedding(nn.Module):
    """Map a scalar through its sinusoid and two linear layers."""

    def __init__(self, width: int, num_features: int = 256) -> None:
        super().__init__()
        self.num_features = num_features
        self.input = nn.Linear(num_features, width)
        self.output = nn.Linear(width, width)

    def forward(self, scalars: Float[Tensor, "batch"], dtype: torch.dtype) -> Float[Tensor, "batch width"]:
        """Return one vector per scalar, the layers running in a dtype."""
        # Filled up to eights: the last few elements of a tensor take another path through SiLU than the rest.
        filled = F.pad(scalars, (0, -len(scalars) % 8))
        features = sinusoid(filled, self.num_features).to(dtype)
        hidden = F.silu(batch_invariant(self.input, features, self.training))
        return batch_invariant(self.output, hidden, self.training)[: len(scalars)]
