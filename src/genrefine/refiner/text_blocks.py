"""Layers of the text refiner: pre-norm blocks without biases and without modulation (Qwen family; method section 5).

    x = x + attention(norm(x)),    x = x + W_3 (silu(W_1 norm(x)) * W_2 norm(x))

Grouped-query attention: `num_heads` query heads share `num_kv_heads` key and value heads, consecutive ones the same.
Queries and keys are normalized per head, then rotated. The signal reaches a block through its token alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrefine.nn.attention import KeysAndValues, SelfAttention
from genrefine.nn.layers import Float32Linear, RMSNorm, SwiGLU
from genrefine.nn.rope import Rotation
from genrefine.refiner.packing import AttentionBackend, LayerCache


class TextRefinerBlock(nn.Module):
    """Attention and gated feed-forward layer, each behind a norm."""

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = SelfAttention(width, num_heads, num_kv_heads, is_fused=False)
        self.mlp_norm = RMSNorm(width)
        self.mlp = SwiGLU(width, mlp_width, is_fused=False)

    def forward(
        self,
        hidden_states: Float[Tensor, "tokens width"],  # diffusers' hooks ask for it by this name
        rotation: Rotation,
        attend: AttentionBackend,
        cache: LayerCache | None = None,
        with_keys: bool = False,
    ) -> Float[Tensor, "tokens width"] | tuple[Float[Tensor, "tokens width"], KeysAndValues]:
        """Return the tokens, and if asked for, the keys and values that they looked at."""
        mixed, keys_and_values = self.attention(self.attention_norm(hidden_states), rotation, attend, cache)
        x = hidden_states + mixed
        x = x + self.mlp(self.mlp_norm(x))
        return (x, keys_and_values) if with_keys else x


class TextRefinerHead(nn.Module):
    """Turn tokens into logits, in float32 because the step budget reads small entropy differences."""

    def __init__(self, width: int, num_logits: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.linear = Float32Linear(width, num_logits)

    def forward(self, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens logits"]:
        with torch.autocast(x.device.type, enabled=False):
            return self.linear(self.norm(x.float()))
