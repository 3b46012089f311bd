"""Text-conditional refiner: (noisy codes, signal, prompt) -> logits of every clean code (arXiv 2604.13030).

    visual tokens = linear(one-hot codes)      text tokens = linear(prompt embeddings)      signal token = mlp(sinusoid)
    x      = blocks(all tokens of a sample)    see `text_blocks`; rotary positions in three dimensions, see `positions`
    logits = linear(norm(visual tokens))       float32

Two layouts of attention exist; weights of the one mean nothing in the other (method section 5):

    joint     visual tokens, first frame if given, text and signal see each other. A first frame turns it into
              image-to-video: clean codes at frame 0, the network predicts frames 1 and on.
    prefix    text sees itself only, so its keys and values are computed once, by `prepare`; visual tokens and the
              signal token see text and themselves.

Samples may have different sizes: see `packing`.
"""

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrefine.conditioning.text_condition import PrefixCache, Prompts, TextCondition
from genrefine.errors import GenrefineError, refuse_unknown_settings
from genrefine.nn.attention import KeysAndValues
from genrefine.nn.embeddings import ScalarEmbedding
from genrefine.refiner.adapter import BESIDE_SIZES, AdaptableRefiner
from genrefine.refiner.caching import CacheableRefiner
from genrefine.refiner.checks import check_codes, check_text_condition
from genrefine.refiner.packing import CachedPrompts, LayerCache, PackedLayout, Segment, aligned, pack_sequence
from genrefine.refiner.positions import SIGNAL_POSITION
from genrefine.refiner.text_blocks import TextRefinerBlock, TextRefinerHead

ATTENTION_LAYOUTS = ("joint", "prefix")
Layers = tuple[Float[Tensor, "prompts heads tokens head_dim"], ...]
Logits = Float[Tensor, "batch channels t h w classes"] | list[Float[Tensor, "_ _ _ _ classes"]]


class TextRefiner(AdaptableRefiner, CacheableRefiner, ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Predict every clean code of pictures or clips from noisy codes, the signal and a prompt.

    Args:
        code_channels: code channels of the tokenizer (latent channels, times rounds in the bit layout).
        code_classes: classes of one code: 2**rounds in the index layout, 2 in the bit layout.
        text_channels: channels of the text encoder's embeddings.
        width: channels of a token.
        depth: number of blocks.
        num_heads: query heads; a head's size must be even and at least 6.
        mlp_width: hidden channels of the feed-forward layers.
        num_kv_heads: key and value heads, a divisor of `num_heads`; None for as many.
        attention: "joint" or "prefix".

    Raises:
        GenrefineError: for sizes that do not fit together.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["TextRefinerBlock"]  # type: ignore[assignment, misc]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["embedding", "head"]  # type: ignore[assignment, misc]
    _repeated_blocks: ClassVar[list[str]] = ["TextRefinerBlock"]  # type: ignore[assignment, misc]

    @register_to_config
    def __init__(
        self,
        code_channels: int,
        code_classes: int,
        text_channels: int,
        width: int,
        depth: int,
        num_heads: int,
        mlp_width: int,
        num_kv_heads: int | None = None,
        attention: str = "joint",
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        head_dim = width // max(num_heads, 1)
        if num_heads < 1 or width % num_heads or head_dim % 2 or head_dim < 6:
            raise GenrefineError(
                f"width / num_heads must be an even number of at least 6; got {width} / {num_heads}; change one of them"
            )
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise GenrefineError(f"num_kv_heads must divide num_heads = {num_heads}; got {num_kv_heads}; use a divisor")
        if attention not in ATTENTION_LAYOUTS:
            raise GenrefineError(f"attention must be 'joint' or 'prefix'; got {attention!r}; choose one of the two")
        self.gradient_checkpointing = False
        self.head_dim = head_dim
        self.code_embedding = nn.Linear(code_channels * code_classes, width)
        self.text_embedding = nn.Linear(text_channels, width)
        self.signal_embedding = ScalarEmbedding(width)
        self.blocks = nn.ModuleList(TextRefinerBlock(width, num_heads, num_kv_heads, mlp_width) for _ in range(depth))
        self.head = TextRefinerHead(width, code_channels * code_classes)
        self._layouts: dict[Any, PackedLayout] = {}
        self.reset_parameters()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a refiner from a configuration.

        Raises:
            GenrefineError: if the configuration has a key that the refiner does not know.
        """
        given = {**(config if isinstance(config, Mapping) else {}), **kwargs}
        refuse_unknown_settings(cls, [name for name in given if name not in BESIDE_SIZES])
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def reset_parameters(self) -> None:
        """Draw new weights: std 0.02, less where a block adds to the residual stream, 0 in the head."""
        blocks = cast(Sequence[TextRefinerBlock], self.blocks)
        into_residual = {part for block in blocks for part in (block.attention.output, block.mlp.output)}
        for module in self.modules():
            if isinstance(module, nn.Linear):
                std = 0.02 * (2 * len(self.blocks)) ** -0.5 if module in into_residual else 0.02
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.head.linear.weight)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the tokens: that of weights which nobody quantizes or casts for storage."""
        return self.head.norm.weight.dtype

    @property
    def sizes(self) -> Any:
        """The constructor's arguments as attributes."""
        return self.config

    def prepare(self, condition: TextCondition) -> TextCondition:
        """Return the condition with the text keys and values of all its prompts, each prompt computed once.

        In the prefix layout, call it once before sampling: every step, and guidance, then reuse them. The result
        belongs to these weights. In the joint layout text sees the picture, nothing can be kept, and the condition is
        returned.

        Raises:
            GenrefineError: if the prompts do not fit the configuration.
        """
        check_text_condition(condition, self.sizes, SIGNAL_POSITION)
        prompts = condition.prompts
        if self.sizes.attention == "joint" or self._remembers(prompts):
            return condition
        keys, values = self(None, None, condition)
        cache = PrefixCache(keys, values, weakref.ref(self), self._cache_key())
        prompts = Prompts(prompts.embeddings, prompts.lengths, cache)
        return TextCondition(prompts, condition.rows, condition.null_rows, condition.first_frames)

    def forward(
        self,
        codes: Int[Tensor, "batch channels t h w"] | Sequence[Int[Tensor, "_ _ _ _"]] | None,
        signal: Float[Tensor, "signals"] | None,
        condition: TextCondition,
        batching: str = "packed",
        return_dict: bool = True,
    ) -> Logits | tuple[Logits] | tuple[Layers, Layers]:
        """Return float32 logits of every clean code, classes last.

        Args:
            codes: noisy codes of the frames to predict, integers in [0, code_classes): a tensor, or a list of samples
                of different sizes, which gives a list of logits. None gives keys and values of the prompts, see
                `prepare`.
            signal: share of clean codes of each sample, 0 noise .. 1 clean.
            condition: one prompt per sample; a first frame makes the codes those of frames 1 and on.
            batching: "packed" or "padded", see `packing`; both give the same numbers up to rounding.
            return_dict: False gives a tuple of one, as diffusers asks for.

        Raises:
            GenrefineError: if shapes, prompts or code values do not fit the configuration.
        """
        if codes is None or signal is None:  # for `prepare`: here, so that what hooks bring for a call is there
            return self._keys_and_values(condition.prompts, tuple(range(len(condition.prompts.lengths))))
        samples = list(codes)
        check_codes(samples, condition.first_frames, self.sizes)
        check_text_condition(condition, self.sizes, SIGNAL_POSITION, num_samples=len(samples), num_signals=len(signal))
        keys, values, cached = ((), (), None) if self.sizes.attention == "joint" else self._cache_of(condition)
        layout = self._layout(self._segments(samples, condition), samples[0].device, batching, cached)
        x = layout.join(self._tokens(samples, signal, condition))  # tokens width
        # In the parameter dtype: under autocast the sum of all blocks stays float32 while the products are bfloat16.
        x = x.to(self.compute_dtype)
        for layer, block in enumerate(self.blocks):
            x = self._run(block, x, layout, None if cached is None else (keys[layer], values[layer]))
        logits = layout.visual(self.head(x), self.sizes.code_classes)  # of each sample: channels t h w classes
        made = torch.stack(logits) if isinstance(codes, Tensor) else logits
        return made if return_dict else (made,)

    def _segments(self, samples: Sequence[Tensor], condition: TextCondition) -> tuple[Segment, ...]:
        """Return what every sample lays into the sequence; text is part of it in the joint layout only."""
        num_text = condition.lengths if self.sizes.attention == "joint" else (0,) * len(samples)
        return tuple(
            Segment((s.shape[1], s.shape[2], s.shape[3]), length, first is not None)
            for s, length, first in zip(samples, num_text, condition.first_frames, strict=True)
        )

    def _tokens(self, samples: Sequence[Tensor], signal: Tensor, condition: TextCondition) -> list[list[Tensor]]:
        """Return the tokens of every segment in their order: visual, first frame, text, signal."""
        given = [first for first in condition.first_frames if first is not None]
        visual = self._embed_codes([*samples, *given])  # in one product
        firsts = iter(visual[len(samples) :])
        is_joint = self.sizes.attention == "joint"
        text = self._embed_prompts(condition.prompts, condition.rows) if is_joint else [None] * len(samples)
        return [
            [
                visual[i],
                *([] if first is None else [next(firsts)]),
                *([] if words is None else [words]),
                token[None],
            ]
            for i, (first, words, token) in enumerate(
                zip(
                    condition.first_frames,
                    text,
                    self.signal_embedding(signal, self.compute_dtype).unbind(),
                    strict=True,
                )
            )
        ]

    def _embed_codes(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """Map the one-hot codes of every position to a token; one-hot channels are `channel * classes + class`."""
        classes = torch.arange(self.sizes.code_classes, device=samples[0].device, dtype=samples[0].dtype)
        one_hot = [(rearrange(s, "d t h w -> (t h w) d 1") == classes).flatten(1) for s in samples]
        return _map_pieces(self.code_embedding, one_hot, self.compute_dtype)

    def _embed_prompts(self, prompts: Prompts, rows: Sequence[int]) -> list[Tensor]:
        """Map the prompts of these rows to tokens, each prompt once."""
        unique = list(dict.fromkeys(rows))
        pieces = _map_pieces(self.text_embedding, [prompts.tokens(row) for row in unique], self.compute_dtype)
        embedded = dict(zip(unique, pieces, strict=True))
        return [embedded[row] for row in rows]

    def _cache_of(self, condition: TextCondition) -> tuple[Layers, Layers, CachedPrompts]:
        """Return keys and values of the condition's prompts, from `prepare` or computed now for those in use."""
        prompts, rows = condition.prompts, condition.rows
        if prompts.cache is not None:
            if not self._remembers(prompts):
                raise GenrefineError(
                    "this condition was prepared by another refiner or before its weights changed; "
                    "prepare the condition that was built from the prompts"
                )
            return prompts.cache.keys, prompts.cache.values, CachedPrompts(rows, condition.lengths)
        used = tuple(dict.fromkeys(rows))
        places = {row: place for place, row in enumerate(used)}
        own = CachedPrompts(tuple(places[row] for row in rows), condition.lengths)
        return *self._keys_and_values(prompts, used), own

    def _remembers(self, prompts: Prompts) -> bool:
        cache = prompts.cache
        if torch.compiler.is_compiling():  # a graph cannot ask for versions, as it cannot read codes to check them
            return cache is not None
        return cache is not None and cache.owner() is self and cache.cache_key == self._cache_key()

    def _cache_key(self) -> tuple[Any, ...]:
        """Return what changes when weights are cast, loaded, trained or adapted."""
        weight = self.text_embedding.weight
        return weight.dtype, 0 if weight.is_inference() else weight._version, *self._adapter_stamp()

    def _keys_and_values(self, prompts: Prompts, rows: tuple[int, ...]) -> tuple[Layers, Layers]:
        """Run the prompts of these rows through the network by themselves and return keys and values of every layer."""
        text = self._embed_prompts(prompts, rows)
        segments = tuple(Segment((0, 0, 0), prompts.lengths[row], has_signal=False) for row in rows)
        layout = self._layout(segments, prompts.embeddings.device, "packed", None, equal_stride=True)
        x = layout.join([[tokens] for tokens in text]).to(self.compute_dtype)
        layers: list[KeysAndValues] = []
        for block in self.blocks:
            x, keys_and_values = self._run(block, x, layout, None, with_keys=True)
            layers.append(keys_and_values)
        keys, values = (
            tuple(rearrange(kept, "heads (prompts n) d -> prompts heads n d", prompts=len(rows)) for kept in kind)
            for kind in zip(*layers, strict=True)
        )
        return keys, values

    def _layout(
        self,
        segments: tuple[Segment, ...],
        device: torch.device,
        batching: str,
        cached: CachedPrompts | None,
        equal_stride: bool = False,
    ) -> PackedLayout:
        """Return the layout of a sequence, kept for the next steps of the same call."""
        if torch.compiler.is_compiling():  # part of the graph
            return pack_sequence(segments, self.head_dim, device, batching, cached, equal_stride)
        key = (segments, device, batching, cached, equal_stride)
        if key not in self._layouts:
            while len(self._layouts) >= MOST_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            with torch.inference_mode(False):  # a layout made while sampling must serve training too
                self._layouts[key] = pack_sequence(segments, self.head_dim, device, batching, cached, equal_stride)
        return self._layouts[key]

    def _run(
        self, block: nn.Module, x: Tensor, layout: PackedLayout, cache: LayerCache | None, with_keys: bool = False
    ) -> Any:
        run: Any = block
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            run = partial(cast(Any, self)._gradient_checkpointing_func, block)
        return run(x, layout.rotation, layout.attention, cache, with_keys)


# Conditional and guided steps of a batch alternate between two layouts; a few more while finished samples leave.
MOST_LAYOUTS = 4


def _map_pieces(linear: nn.Linear, pieces: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Map the rows of all pieces in one product, each piece filled up so that its rows round alike in any company."""
    filled = [F.pad(piece.to(dtype), (0, 0, 0, aligned(len(piece)) - len(piece))) for piece in pieces]
    mapped = linear(torch.cat(filled)).split([len(piece) for piece in filled])
    return [rows[: len(piece)] for rows, piece in zip(mapped, pieces, strict=True)]
