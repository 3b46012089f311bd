"""Layers of the text refiner: pre-norm blocks without biases and without modulation (Qwen family; method section 5).

    x = x + attention(norm(x)),    x = x + W_3 (silu(W_1 norm(x)) * W_2 norm(x))

Grouped-query attention: `num_heads` query heads share `num_kv_heads` key and value heads, consecutive ones the same.
Queries and keys are normalized per head, then rotated. The signal reaches a block through its token alone.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from genrefine.nn.attention import samples_at_once
from genrefine.nn.layers import GatedMLP, RMSNorm, rms_normalize
from genrefine.nn.rope import Rotation, rotate_pairs
from genrefine.refiner.packing import AttentionBackend, LayerCache

KeysAndValues = tuple[Float[Tensor, "kv_heads tokens head_dim"], Float[Tensor, "kv_heads tokens head_dim"]]


class GroupedQueryAttention(nn.Module):
    """Let every token look at the tokens of its segment, and at its prompt where that is remembered.

    Args:
        width: channels of a token.
        num_heads: query heads; `width / num_heads` is the size of a head.
        num_kv_heads: key and value heads, a divisor of `num_heads`.
    """

    def __init__(self, width: int, num_heads: int, num_kv_heads: int) -> None:
        super().__init__()
        head_dim = width // num_heads
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, num_kv_heads * head_dim, bias=False)
        self.value = nn.Linear(width, num_kv_heads * head_dim, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.query_norm = RMSNorm(head_dim)
        self.key_norm = RMSNorm(head_dim)

    def forward(
        self,
        x: Float[Tensor, "tokens width"],
        rotation: Rotation,
        attend: AttentionBackend,
        cache: LayerCache | None = None,
    ) -> tuple[Float[Tensor, "tokens width"], KeysAndValues]:
        value = rearrange(self.value(x), "n (heads d) -> heads n d", heads=self.num_kv_heads)
        query = self._norm_and_rotate(self.query(x), self.num_heads, self.query_norm, rotation)
        key = self._norm_and_rotate(self.key(x), self.num_kv_heads, self.key_norm, rotation)
        mixed = attend(query, key, value, cache)  # heads tokens head_dim
        return self.output(rearrange(mixed, "heads n d -> n (heads d)")), (key, value)

    @staticmethod
    def _norm_and_rotate(
        x: Tensor, num_heads: int, norm: RMSNorm, rotation: Rotation
    ) -> Float[Tensor, "heads tokens head_dim"]:
        """Split into heads, normalize each and rotate it to its place, in float32; return the dtype of x."""
        heads = rearrange(x, "n (heads d) -> heads n d", heads=num_heads)

        def place(part: Tensor) -> Tensor:
            return rotate_pairs(rms_normalize(part, norm.weight, norm.eps), rotation).to(x.dtype)

        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return place(heads)
        return torch.cat([place(part) for part in heads.split(samples_at_once(heads[0].numel()))])


class TextRefinerBlock(nn.Module):
    """Attention and gated feed-forward layer, each behind a norm; also returns the keys and values it used."""

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = GroupedQueryAttention(width, num_heads, num_kv_heads)
        self.mlp_norm = RMSNorm(width)
        self.mlp = GatedMLP(width, mlp_width)

    def forward(
        self,
        x: Float[Tensor, "tokens width"],
        rotation: Rotation,
        attend: AttentionBackend,
        cache: LayerCache | None = None,
    ) -> tuple[Float[Tensor, "tokens width"], KeysAndValues]:
        mixed, keys_and_values = self.attention(self.attention_norm(x), rotation, attend, cache)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), keys_and_values


class TextRefinerHead(nn.Module):
    """Turn tokens into logits, in float32 because the step budget reads small entropy differences."""

    def __init__(self, width: int, num_logits: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.linear = nn.Linear(width, num_logits)

    def forward(self, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens logits"]:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(self.norm(x.float()), self.linear.weight.float(), self.linear.bias.float())
