"""Published class-to-image checkpoints (`.pth`) -> `ClassRefiner`.

The file is `{"model", "model_ema1", "model_ema2", "optimizer", "epoch", "args"}`; the three first hold weights `net.*`.
Sampling uses `model_ema1` (decay 0.9999). Names change by the two tables below, 1 x 1 convolutions become matrices,
and the fixed position table is compared with ours and dropped.

Shapes tell every size but two: into how many classes the one-hot channels split (the layout), and where the in-context
tokens join. Both come from the training arguments or the table of published sizes, or from the caller. A network of
published size on 16 x 16 positions is taken to speak the codes of the published tokenizer, 16 channels and 4 rounds.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from genrefine.convert.checkpoint import State
from genrefine.convert.translation import Naming, build_exactly, translate
from genrefine.errors import GenrefineError
from genrefine.hbq import MAX_ROUNDS
from genrefine.nn.embeddings import grid_sinusoid
from genrefine.refiner import CLASS_REFINER_SIZES, ClassRefiner, class_refiner_config

OUTSIDE_BLOCKS = {
    "x_embedder.proj1": "code_embedding.compress",
    "x_embedder.proj2": "code_embedding.expand",
    "t_embedder.mlp.0": "signal_embedding.input",
    "t_embedder.mlp.2": "signal_embedding.output",
    "y_embedder.embedding_table": "class_embedding",
    "final_layer.norm_final": "head.norm",
    "final_layer.adaLN_modulation.1": "head.modulation",
    "final_layer.linear": "head.linear",
}
INSIDE_BLOCKS = {
    "norm1": "attention_norm",
    "norm2": "mlp_norm",
    "attn.qkv": "attention.query_key_value",
    "attn.q_norm": "attention.query_norm",
    "attn.k_norm": "attention.key_norm",
    "attn.proj": "attention.output",
    "mlp.w12": "mlp.gate_and_value",
    "mlp.w3": "mlp.output",
    "adaLN_modulation.1": "modulation",
}
POSITIONS = "pos_embed"


def rename(key: str) -> str | None:
    """Return our name of a published weight, with or without `net.`, or None if there is no such weight."""
    key = key.removeprefix("net.")
    if key == POSITIONS:
        return key
    if key == "in_context_posemb":
        return "in_context_positions"
    module, _, leaf = key.rpartition(".")
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
    if block is None:
        ours = OUTSIDE_BLOCKS.get(module)
        return ours and f"{ours}.{leaf}"
    ours = INSIDE_BLOCKS.get(block[2])
    return ours and f"blocks.{block[1]}.{ours}.{leaf}"


def naming(keys: Iterable[str]) -> Naming:
    """Return how a file with these keys calls its weights."""
    modules = (*OUTSIDE_BLOCKS, *(f"blocks.0.{module}" for module in INSIDE_BLOCKS))
    leaves = [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")]
    return Naming(rename, tuple(keys), (POSITIONS, "in_context_posemb", *leaves))


def translate_weights(state: Mapping[str, Tensor]) -> State:
    """Return published weights, with or without `net.`, under our names and in our shapes, `pos_embed` included.

    Raises:
        GenrefineError: naming the keys that are not of the published network.
    """
    ours = translate(state, rename)
    for key in ("code_embedding.compress.weight", "code_embedding.expand.weight"):
        if key in ours and ours[key].ndim == 4:
            ours[key] = ours[key][:, :, 0, 0]
    if "in_context_positions" in ours:
        ours["in_context_positions"] = ours["in_context_positions"].squeeze(0)
    return ours


def infer_config(state: State, code_classes: int, in_context_start: int | None = None) -> dict[str, Any]:
    """Return the arguments of `ClassRefiner` for translated weights.

    Args:
        state: what `translate_weights` returns.
        code_classes: classes of one code, 2**rounds in the index layout, 2 in the bit layout.
        in_context_start: first block with in-context tokens; None looks it up among the published sizes.

    Raises:
        GenrefineError: if a weight that tells a size is missing, or sizes contradict each other.
    """
    try:
        _, num_tokens, width = state[POSITIONS].shape
        bottleneck, one_hot_channels = state["code_embedding.compress.weight"].shape
        head_dim = len(state["blocks.0.attention.query_norm.weight"])
        hidden = state["blocks.0.mlp.output.weight"].shape[1]
        num_rows = len(state["class_embedding.weight"])
    except KeyError as error:
        raise GenrefineError(
            f"checkpoint must be a published class refiner; it has no {naming(()).in_file(error.args[0])}"
        ) from error
    depth = _depth(state)
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise GenrefineError(f"published grids are square; got {num_tokens} positions")
    if code_classes < 2 or one_hot_channels % code_classes:
        raise GenrefineError(
            f"code_classes must divide the {one_hot_channels} one-hot channels; got {code_classes}; "
            "give 2 for the bit layout, 2**rounds for the index layout"
        )
    in_context_tokens = len(state.get("in_context_positions", ()))
    if in_context_start is None:
        in_context_start = _published_start(depth, width) if in_context_tokens else 0
    return {
        "code_channels": one_hot_channels // code_classes,
        "code_classes": code_classes,
        "grid": (side, side),
        "num_classes": num_rows - 1,
        "width": width,
        "depth": depth,
        "num_heads": width // head_dim,
        "bottleneck": bottleneck,
        "in_context_tokens": in_context_tokens,
        "in_context_start": in_context_start,
        # Every published size has ratio 4; another one is found from the rounded hidden size.
        "mlp_ratio": 4.0 if hidden == int(4 * width * 2 / 3) else math.ceil(hidden * 3 / 2) / width,
    }


def class_refiner_from_weights(
    state: Mapping[str, Tensor], code_classes: int, in_context_start: int | None = None
) -> ClassRefiner:
    """Return a `ClassRefiner` with published weights; see `infer_config` for the arguments.

    Raises:
        GenrefineError: if names, shapes or the position table are not those of the published network.
    """
    ours = translate_weights(state)
    config = infer_config(ours, code_classes, in_context_start)
    drop_positions(ours, config)
    return build_exactly(ClassRefiner, config, ours, naming(state))


def drop_positions(ours: State, config: Mapping[str, Any]) -> None:
    """Take the fixed position table out of translated weights.

    Raises:
        GenrefineError: if it is not the sin-cos table that our network computes.
    """
    table = ours.pop(POSITIONS)[0]
    published = table.float()
    height, columns = config["grid"]
    difference = (published - grid_sinusoid(height, columns, config["width"])).abs().max().item()
    if not difference < (1e-3 if table.dtype == torch.float32 else 1e-2):
        raise GenrefineError(
            f"{POSITIONS} must be the fixed sin-cos table; it differs by {difference:.2g}; this is another network"
        )


def published_size(depth: int, width: int) -> str | None:
    """Return the name of the published size of this depth and width, if there is one."""
    fits = [name for name, size in CLASS_REFINER_SIZES.items() if (size["depth"], size["width"]) == (depth, width)]
    return fits[0] if fits else None


def find_code_classes(state: State, arguments: Any, given: int | None) -> tuple[int, str]:
    """Return the classes of one code, and how they are known.

    Args:
        state: what `translate_weights` returns.
        arguments: training arguments in the checkpoint, if any.
        given: by the caller.

    Raises:
        GenrefineError: if nothing tells them, or two sources contradict each other.
    """
    stored = _stored_code_classes(arguments)
    if given is not None and stored is not None and given != stored:
        raise GenrefineError(f"code_classes is {stored} by the checkpoint's training arguments; got {given}")
    if given is not None:
        return given, "as given"
    if stored is not None:
        return stored, "by the training arguments in the file"
    compress = state.get("code_embedding.compress.weight")
    positions, depth = state.get(POSITIONS), _depth(state)
    if compress is not None and positions is not None and positions.shape[1] == 256:
        size = published_size(depth, positions.shape[2])
        for layout in ("index", "bit") if size else ():
            config = class_refiner_config(str(size), layout)
            if compress.shape[1] == config["code_channels"] * config["code_classes"]:
                return config["code_classes"], f"as published size {size} has {compress.shape[1]} one-hot channels"
    raise GenrefineError(
        "the checkpoint has no training arguments, and its size is not published; "
        "give code_classes: 2 for the bit layout, 2**rounds for the index layout"
    )


def _depth(state: State) -> int:
    return 1 + max((int(key.split(".")[1]) for key in state if key.startswith("blocks.")), default=-1)


def _published_start(depth: int, width: int) -> int:
    size = published_size(depth, width)
    if size is None:
        raise GenrefineError(f"no published size has depth {depth} and width {width}; give in_context_start")
    return CLASS_REFINER_SIZES[size]["in_context_start"]


def _stored_code_classes(arguments: Any) -> int | None:
    method, rounds = getattr(arguments, "method", None), getattr(arguments, "hbq_round", None)
    if method == "GRN_bit":
        return 2
    if method != "GRN_ind" or rounds is None:
        return None
    if not isinstance(rounds, int) or isinstance(rounds, bool) or not 1 <= rounds <= MAX_ROUNDS:
        raise GenrefineError(
            f"hbq_round in the file's training arguments must be from 1 to {MAX_ROUNDS}; it is {str(rounds)[:40]!r}; "
            "give code_classes"
        )
    return 2**rounds
