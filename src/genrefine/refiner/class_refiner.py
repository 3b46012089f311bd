"""Class-conditional refiner: (noisy codes, signal, class) -> logits of every clean code (arXiv 2604.13030).

    c      = signal embedding + class embedding                                 one vector per sample
    x      = expand(compress(one-hot codes)) + positions                        one token per position of the grid
    x      = x + gate_a(c) * attention(modulate(norm(x), shift_a(c), scale_a(c)))
    x      = x + gate_m(c) * mlp(modulate(norm(x), shift_m(c), scale_m(c)))     adaLN-zero: gates start at 0
    logits = linear(modulate(norm(x), shift(c), scale(c)))                      float32

From block `in_context_start` on, `in_context_tokens` copies of the class embedding, each with its own learned position,
stand in front of the picture's tokens; they leave before the head. The null class is label `num_classes`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.errors import GenrefineError
from genrefine.nn.attention import SelfAttention
from genrefine.nn.embeddings import ScalarEmbedding, grid_sinusoid
from genrefine.nn.layers import Float32Linear, ModulatedRMSNorm, SwiGLU, batch_invariant
from genrefine.nn.rope import FixedRotation, FixedTable, Rotation, grid_angles
from genrefine.refiner.adapter import AdaptableRefiner
from genrefine.refiner.caching import CacheableRefiner
from genrefine.refiner.checks import check_class_batch


class CodeEmbedding(nn.Module):
    """Map the one-hot codes of a position to a token through a narrow bottleneck.

    One-hot channels are class-major (`class * channels + channel`), the order of the published weights.
    """

    def __init__(self, code_channels: int, code_classes: int, bottleneck: int, width: int) -> None:
        super().__init__()
        self.code_classes = code_classes
        self.compress = nn.Linear(code_classes * code_channels, bottleneck, bias=False)
        self.expand = nn.Linear(bottleneck, width)

    def forward(
        self, codes: Int[Tensor, "batch channels t h w"], dtype: torch.dtype
    ) -> Float[Tensor, "batch tokens width"]:
        classes = torch.arange(self.code_classes, device=codes.device, dtype=codes.dtype)
        tokens = rearrange(codes, "b d t h w -> b (t h w) 1 d")
        one_hot = (tokens == classes[:, None]).flatten(2)  # batch tokens (classes channels)
        return self.expand(self.compress(one_hot.to(dtype)))


class RefinerBlock(nn.Module):
    """Attention and feed-forward layer, both modulated and gated by the condition (adaLN-zero)."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attention_norm = ModulatedRMSNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.mlp_norm = ModulatedRMSNorm(width)
        # Two thirds: a gated layer has three matrices where a plain one has two.
        self.mlp = SwiGLU(width, int(int(width * mlp_ratio) * 2 / 3))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch tokens width"],  # diffusers' hooks ask for it by this name
        activated: Float[Tensor, "batch width"],
        rotation: Rotation,
    ) -> Float[Tensor, "batch tokens width"]:
        x = hidden_states
        modulation = batch_invariant(self.modulation, activated, self.training)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=-1)
        mixed, _ = self.attention(self.attention_norm(x, shift_a, scale_a), rotation)
        x = torch.addcmul(x, gate_a[:, None], mixed)
        return torch.addcmul(x, gate_m[:, None], self.mlp(self.mlp_norm(x, shift_m, scale_m)))


class RefinerHead(nn.Module):
    """Turn tokens into logits; the last product is float32 because the step budget reads small entropy differences."""

    def __init__(self, width: int, num_logits: int) -> None:
        super().__init__()
        self.norm = ModulatedRMSNorm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = Float32Linear(width, num_logits)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], activated: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch tokens logits"]:
        shift, scale = batch_invariant(self.modulation, activated, self.training).chunk(2, dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            return self.linear(self.norm(x.float(), shift, scale))


class ClassRefiner(AdaptableRefiner, CacheableRefiner, ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Predict every clean code of a picture from noisy codes, the signal and a class.

    Args:
        code_channels: code channels of the tokenizer (latent channels, times rounds in the bit layout).
        code_classes: classes of one code: 2**rounds in the index layout, 2 in the bit layout.
        grid: rows and columns of the latent map.
        num_classes: picture classes, without the null class.
        width: channels of a token.
        depth: number of blocks.
        num_heads: attention heads; a head's size must be a multiple of 4 (rows and columns, in pairs).
        bottleneck: channels between the one-hot codes and the tokens.
        in_context_tokens: class tokens that join the picture's tokens; 0 for none.
        in_context_start: index of the first block that sees them.
        mlp_ratio: hidden channels of an ungated feed-forward layer of the same size, over `width`.

    Raises:
        GenrefineError: for sizes that do not fit together.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["RefinerBlock"]  # type: ignore[assignment, misc]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["embedding", "head"]  # type: ignore[assignment, misc]
    _repeated_blocks: ClassVar[list[str]] = ["RefinerBlock"]  # type: ignore[assignment, misc]

    @register_to_config
    def __init__(
        self,
        code_channels: int,
        code_classes: int,
        grid: tuple[int, int] | list[int],
        num_classes: int,
        width: int,
        depth: int,
        num_heads: int,
        bottleneck: int,
        in_context_tokens: int = 32,
        in_context_start: int = 0,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or width % (4 * num_heads):
            raise GenrefineError(
                f"width must be a multiple of 4 * num_heads; got {width} and {num_heads}; change one of them"
            )
        if in_context_tokens and not 0 <= in_context_start < depth:
            raise GenrefineError(
                f"in_context_start must be a block, 0 .. {depth - 1}; got {in_context_start}; "
                "choose such a block or set in_context_tokens to 0"
            )
        self.gradient_checkpointing = False
        self.code_embedding = CodeEmbedding(code_channels, code_classes, bottleneck, width)
        self.signal_embedding = ScalarEmbedding(width)
        self.class_embedding = nn.Embedding(num_classes + 1, width)
        if in_context_tokens:
            self.in_context_positions = nn.Parameter(torch.empty(in_context_tokens, width))
        self.blocks = nn.ModuleList(RefinerBlock(width, num_heads, mlp_ratio) for _ in range(depth))
        self.head = RefinerHead(width, code_classes * code_channels)

        height, columns = grid
        angles = grid_angles(height, columns, width // num_heads)
        # In-context tokens have no place on the grid: angle 0.
        nowhere = torch.zeros(in_context_tokens, angles.shape[1], device="cpu")
        self._positions = FixedTable(grid_sinusoid(height, columns, width))
        self._rotation = FixedRotation(angles)
        self._joined_rotation = FixedRotation(torch.cat([nowhere, angles]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: xavier for linear layers, std 0.02 for embeddings, 0 for modulations and the head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        signal = self.signal_embedding
        for weight in (self.class_embedding.weight, signal.input.weight, signal.output.weight):
            nn.init.normal_(weight, std=0.02)
        if self.sizes.in_context_tokens:
            nn.init.normal_(self.in_context_positions, std=0.02)
        for part in (*self.blocks, self.head):
            nn.init.zeros_(part.modulation.weight)
        nn.init.zeros_(self.head.linear.weight)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the tokens: that of weights which nobody quantizes or casts for storage."""
        return self.head.norm.weight.dtype

    @property
    def sizes(self) -> Any:
        """The constructor's arguments as attributes."""
        return self.config

    def forward(
        self,
        codes: Int[Tensor, "batch channels t h w"],
        signal: Float[Tensor, "batch"],
        condition: ClassCondition,
        return_dict: bool = True,
    ) -> Float[Tensor, "batch channels t h w classes"] | tuple[Float[Tensor, "batch channels t h w classes"]]:
        """Return float32 logits of every clean code, classes last.

        Args:
            codes: noisy codes, integers in [0, code_classes).
            signal: share of clean codes of each sample, 0 noise .. 1 clean.
            condition: one class label per sample.
            return_dict: False gives a tuple of one, as diffusers asks for.

        Raises:
            GenrefineError: if shapes, labels or code values do not fit the configuration.
        """
        sizes, device, dtype = self.sizes, codes.device, self.compute_dtype
        check_class_batch(codes, condition, sizes)
        look_up = self.class_embedding  # with an adapter, a table and a product
        labels = (
            batch_invariant(look_up, condition.labels, self.training) if self.adapters else look_up(condition.labels)
        )
        activated = F.silu(self.signal_embedding(signal, dtype) + labels)
        # In the parameter dtype: under autocast the sum of all blocks stays float32 while the products are bfloat16.
        positions = self._positions.on(device).to(dtype)
        x = self.code_embedding(codes, dtype) + positions  # batch tokens width
        rotation = self._rotation.on(device)
        for index, block in enumerate(self.blocks):
            if sizes.in_context_tokens and index == sizes.in_context_start:
                x = torch.cat([(labels[:, None] + self.in_context_positions).to(x.dtype), x], dim=1)
                rotation = self._joined_rotation.on(device)
            x = self._run(block, x, activated, rotation)
        x = x[:, sizes.in_context_tokens :]
        logits = self.head(x, activated)  # batch tokens (classes channels)
        h, w = codes.shape[3:]
        logits = rearrange(logits, "b (t h w) (k d) -> b d t h w k", k=sizes.code_classes, h=h, w=w)
        return logits if return_dict else (logits,)

    def choose_classes(self, rows: Sequence[int | None]) -> None:
        """Replace the class table by one in which class i starts as class `rows[i]` of the present one.

        A class without a row starts as the null class: the network says of it what it says of no particular class.

        Args:
            rows: a present class, or None, for each new class.

        Raises:
            GenrefineError: there is no new class, or no such present one.
        """
        null = self.sizes.num_classes
        wrong = [row for row in rows if row is not None and not 0 <= row < null]
        if wrong or not rows:
            raise GenrefineError(f"classes must be one or more of 0 .. {null - 1}, or None for new ones; got {rows}")
        chosen = torch.tensor([*(null if row is None else row for row in rows), null])
        table = self.class_embedding.weight
        with torch.no_grad():
            self.class_embedding = nn.Embedding.from_pretrained(table[chosen.to(table.device)], freeze=False)
        self.register_to_config(num_classes=len(rows))
        self.class_rows = list(rows)

    def _run(self, block: nn.Module, x: Tensor, activated: Tensor, rotation: Rotation) -> Tensor:
        run: Any = block
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            run = partial(cast(Any, self)._gradient_checkpointing_func, block)
        return run(x, activated, rotation)
