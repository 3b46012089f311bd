"""Self-attention with normalized, rotated queries and keys.

    softmax(rotate(norm(Q)) rotate(norm(K))^T / sqrt(head_dim)) V,     norm = RMSNorm over each head

Rotations (rope.py) tell a query and a key how many rows and columns lie between them.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from genrefine.nn.layers import RMSNorm, rms_normalize
from genrefine.nn.rope import Rotation, rotate_pairs

KeysAndValues = tuple[
    Float[Tensor, "*batch kv_heads tokens head_dim"], Float[Tensor, "*batch kv_heads tokens head_dim"]
]
Mixer = Callable[[Tensor, Tensor, Tensor, Any], Tensor]

# Beyond this many tokens the score matrix of the explicit product outgrows the caches.
LONGEST_EXPLICIT_SEQUENCE = 1024
# So many elements of an intermediate result stay in the second-level cache of one core.
CACHED_ELEMENTS = 2**18


def samples_at_once(elements_per_sample: int) -> int:
    """Return how many samples, or heads, to take through element-wise operations so that these stay in the cache."""
    return max(1, CACHED_ELEMENTS // elements_per_sample)


def attend(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    mask: Bool[Tensor, "batch 1 1 keys"] | None = None,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Return attention of every query to every key, or to those under the mask, by the faster of two equal ways.

    Consecutive query heads share a key and value head where there are fewer of these (grouped-query attention).

    PyTorch's fused kernel wins everywhere but for short bfloat16 sequences on a CPU. There plain matrix products take a
    quarter to a third of its time in training, both passes together (64 and 288 tokens), and 0.5 to 0.7 of it in the
    forward pass alone if the scores of few samples at a time stay in the cache (64 to 288 tokens; AVX-512 BF16).
    """
    if (repeats := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    is_trained = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    is_short = key.shape[2] <= LONGEST_EXPLICIT_SEQUENCE
    if is_short and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        if is_trained:
            return _attend_explicitly(query, key, value, mask)
        if not torch.compiler.is_compiling():
            number = samples_at_once(query.shape[1] * query.shape[2] * key.shape[2])
            masks = [None] * len(query) if mask is None else mask.split(number)
            parts = zip(query.split(number), key.split(number), value.split(number), masks, strict=False)
            return torch.cat([_attend_explicitly(*part) for part in parts])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _attend_explicitly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


class RotatedRMSNorm(RMSNorm):
    """Normalize each head and rotate it to its place, in float32; return the dtype of x."""

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "first *rest tokens head_dim"], rotation: Rotation
    ) -> Float[Tensor, "first *rest tokens head_dim"]:
        def place(part: Tensor) -> Tensor:
            return rotate_pairs(rms_normalize(part, self.weight, self.eps), rotation).to(x.dtype)

        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return place(x)
        return torch.cat([place(part) for part in x.split(samples_at_once(x[0].numel()))])


class SelfAttention(nn.Module):
    """Let every token look at the tokens of its sample.

    Args:
        width: channels of a token.
        num_heads: query heads; `width / num_heads` is the size of a head.
        num_kv_heads: key and value heads, a divisor of `num_heads`; None for as many.
        is_fused: keep query, key and value as one matrix with biases, as the class networks do; else as three
            without, as the text networks do.
    """

    def __init__(self, width: int, num_heads: int, num_kv_heads: int | None = None, is_fused: bool = True) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_heads if num_kv_heads is None else num_kv_heads
        head_dim = width // num_heads
        self.widths = [width, self.num_kv_heads * head_dim, self.num_kv_heads * head_dim]
        if is_fused:
            self.query_key_value = nn.Linear(width, sum(self.widths))
        else:
            self.query, self.key, self.value = (nn.Linear(width, own, bias=False) for own in self.widths)
        self.output = nn.Linear(width, width, bias=is_fused)
        self.query_norm = RotatedRMSNorm(head_dim)
        self.key_norm = RotatedRMSNorm(head_dim)
        self.is_fused = is_fused

    def forward(
        self, x: Float[Tensor, "*batch tokens width"], rotation: Rotation, mix: Mixer = attend, cache: Any = None
    ) -> tuple[Float[Tensor, "*batch tokens width"], KeysAndValues]:
        """Return the output, and the keys and values it was made from.

        Args:
            x: tokens.
            rotation: of each of them.
            mix: (queries, keys, values, cache) -> attention output, by default `attend`.
            cache: for `mix`.
        """
        q, k, v = self.query_key_value(x).split(self.widths, -1) if self.is_fused else self._apart(x)
        query = self.query_norm(_heads(q, self.num_heads), rotation)
        key = self.key_norm(_heads(k, self.num_kv_heads), rotation)
        value = _heads(v, self.num_kv_heads)
        mixed = mix(query, key, value, cache)  # *batch heads tokens head_dim
        return self.output(rearrange(mixed, "... heads n d -> ... n (heads d)")), (key, value)

    def _apart(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.query(x), self.key(x), self.value(x)


def _heads(x: Float[Tensor, "*batch tokens channels"], num_heads: int) -> Float[Tensor, "*batch heads tokens head_dim"]:
    return rearrange(x, "... n (heads d) -> ... heads n d", heads=num_heads)
