"""Published text checkpoints (`.pth`) -> `TextRefiner`.

A released file is a flat dictionary of weights; a training checkpoint has them under `trainer`, averaged ones as
`gpt_ema_fsdp`, else `gpt_fsdp`. Blocks are stored in chunks, `block_chunks.C.module.M`, which are counted through.
Every tensor keeps its shape.

Shapes tell every size but two. The classes of one code: every released file is of the bit layout, 2 classes, and is
known by its channels; of another one they have to be said. And the
layout of attention: 2 B weights of May 2026 are "prefix", those of June "joint", with the same names and shapes, so
nothing in the file tells them apart and the wrong choice gives wrong pictures without an error. It has to be said.
The 8 B size exists in the June program only.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from genrefine.convert.checkpoint import State
from genrefine.convert.translation import Naming, Rename, build_exactly, translate
from genrefine.errors import GenrefineError
from genrefine.refiner.text_refiner import TextRefiner

OUTSIDE_BLOCKS = {
    "text_proj": "text_embedding",
    "word_embed": "code_embedding",
    "pt_embedder.mlp.0": "signal_embedding.input",
    "pt_embedder.mlp.2": "signal_embedding.output",
    "head.norm": "head.norm",
    "head.proj": "head.linear",
}
INSIDE_BLOCKS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
    "attn.q_proj": "attention.query",
    "attn.k_proj": "attention.key",
    "attn.v_proj": "attention.value",
    "attn.o_proj": "attention.output",
    "attn.q_norm": "attention.query_norm",
    "attn.k_norm": "attention.key_norm",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.value",
    "mlp.down_proj": "mlp.output",
}
JOINT_MARK = "FSA"
"""In the file names that the authors give to joint weights; a hint, no proof."""
RELEASED_CHANNELS = 2 * 4 * 64
"""One-hot channels of every released text model: binary labels, 4 rounds, 64 latent channels."""
JOINT_ONLY = (36, 4096)
"""Depth and width of the 8 B size."""
_BLOCK = re.compile(r"block_chunks\.(\d+)\.module\.(\d+)\.(.+)")


def rename(key: str, blocks_per_chunk: int) -> str | None:
    """Return our name of a published weight, or None if there is no such weight."""
    module, _, leaf = key.rpartition(".")
    block = _BLOCK.fullmatch(module)
    if block is None:
        ours = OUTSIDE_BLOCKS.get(module)
        return ours and f"{ours}.{leaf}"
    chunk, place = int(block[1]), int(block[2])
    ours = INSIDE_BLOCKS.get(block[3])
    return ours and f"blocks.{chunk * blocks_per_chunk + place}.{ours}.{leaf}"


def translate_weights(state: Mapping[str, Tensor]) -> State:
    """Return published weights under our names.

    Raises:
        GenrefineError: naming the keys that are not of the published network.
    """
    return translate(state, renaming(state))


def renaming(keys: Iterable[str]) -> Rename:
    """Return the renaming of a checkpoint with these keys, which tell how many blocks a chunk has."""
    places = [int(block[2]) for key in keys if (block := _BLOCK.match(key))]
    return partial(rename, blocks_per_chunk=1 + max(places, default=0))


def naming(keys: Iterable[str]) -> Naming:
    """Return how a file with these keys calls its weights."""
    keys = tuple(keys)
    modules = (*OUTSIDE_BLOCKS, *(f"block_chunks.0.module.0.{module}" for module in INSIDE_BLOCKS))
    return Naming(renaming(keys), keys, [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")])


def infer_config(state: State, attention: str, code_classes: int = 2) -> dict[str, Any]:
    """Return the arguments of `TextRefiner` for translated weights.

    Args:
        state: what `translate_weights` returns.
        attention: "joint" or "prefix".
        code_classes: classes of one code, 2 in the bit layout, 2**rounds in the index layout.

    Raises:
        GenrefineError: if a weight that tells a size is missing, or sizes contradict each other.
    """
    try:
        width, one_hot_channels = state["code_embedding.weight"].shape
        text_channels = state["text_embedding.weight"].shape[1]
        head_dim = len(state["blocks.0.attention.query_norm.weight"])
        kv_width = len(state["blocks.0.attention.key.weight"])
        mlp_width = len(state["blocks.0.mlp.gate.weight"])
    except KeyError as error:
        raise GenrefineError(
            f"checkpoint must be a published text refiner; it has no {naming(()).in_file(error.args[0])}"
        ) from error
    if code_classes < 2 or one_hot_channels % code_classes:
        raise GenrefineError(
            f"code_classes must divide the {one_hot_channels} one-hot channels; got {code_classes}; "
            "give 2 for the bit layout, 2**rounds for the index layout"
        )
    return {
        "code_channels": one_hot_channels // code_classes,
        "code_classes": code_classes,
        "text_channels": text_channels,
        "width": width,
        "depth": 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        "num_heads": width // head_dim,
        "num_kv_heads": kv_width // head_dim,
        "mlp_width": mlp_width,
        "attention": attention,
    }


def text_refiner_from_weights(state: Mapping[str, Tensor], attention: str, code_classes: int = 2) -> TextRefiner:
    """Return a `TextRefiner` with published weights; see `infer_config` for the arguments.

    Raises:
        GenrefineError: if names or shapes are not those of the published network.
    """
    ours = translate_weights(state)
    return build_exactly(TextRefiner, infer_config(ours, attention, code_classes), ours, naming(state))


def find_code_classes(state: State, given: int | None) -> tuple[int, str]:
    """Return the classes of one code, and how they are known.

    Args:
        state: what `translate_weights` returns.
        given: by the caller.

    Raises:
        GenrefineError: if nothing tells them.
    """
    if given is not None:
        return given, "as given"
    weight = state.get("code_embedding.weight")
    channels = weight.shape[1] if weight is not None and weight.ndim == 2 else 0
    if channels == RELEASED_CHANNELS:
        return 2, f"as in every released text model, which have {channels} one-hot channels"
    raise GenrefineError(
        f"released text models have {RELEASED_CHANNELS} one-hot channels and this one {channels}, which does not "
        "tell the classes of one code; give code_classes (--code-classes): 2 if of the bit layout, else 2**rounds"
    )


def require_attention(given: str | None, config: Mapping[str, Any], file_name: str) -> tuple[str, str]:
    """Return the layout of attention, and how it is known.

    Args:
        given: by the caller.
        config: arguments of the network.
        file_name: of the checkpoint.

    Raises:
        GenrefineError: if it is not given and the size does not tell it.
    """
    marked = JOINT_MARK in file_name
    if given is not None:
        doubt = marked and given != "joint"
        return given, "as given" + (f"; but '{JOINT_MARK}' in the file's name suggests joint" if doubt else "")
    if (config["depth"], config["width"]) == JOINT_ONLY:
        return "joint", "as this size exists in the June program only"
    hint = f"; '{JOINT_MARK}' in its name suggests joint" if marked else ""
    raise GenrefineError(
        f"the weights in '{file_name}' do not tell their attention, and the wrong one gives wrong pictures without an "
        f"error{hint}; give --attention prefix (models of May 2026) or --attention joint (June)"
    )
