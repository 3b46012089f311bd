"""Published tokenizer checkpoints (`.ckpt`) -> `VisualTokenizer`.

The file is a dictionary; the weights are under `ema` if there is such an entry, else under `vae`. Names change as below
(`i` stage, `j` block); every tensor keeps its shape. Shapes tell every size; rounds, layout and whether
latents go through tanh are no weights and come from the caller (published: 4 rounds, either layout, tanh).

    conv1, conv2                                      conv_quant, conv_dequant
    encoder.conv1, encoder.head.{0, 2}                encoder.conv_in, encoder.norm_out, encoder.conv_out
    encoder.downsamples.i.downsamples.j               encoder.stages.i.blocks.j, the last j encoder.stages.i.downsample
    encoder.middle.{0, 1, 2}                          encoder.middle.{block1, attention.layer, block2}
    ... residual.{0, 2, 3, 6}, shortcut               ... {norm1, conv1, norm2, conv2}, shortcut
    ... resample.1, time_conv                         ... spatial.layer.1, time_conv

and the same for the decoder with `upsamples` and `upsample`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from genrefine.convert.checkpoint import State
from genrefine.convert.translation import Naming, build_exactly, translate
from genrefine.errors import GenrefineError
from genrefine.hbq import Layout
from genrefine.tokenizer import VisualTokenizer

ENDS = {
    "conv1": "conv_quant",
    "conv2": "conv_dequant",
    **{f"{half}.conv1": f"{half}.conv_in" for half in ("encoder", "decoder")},
    **{f"{half}.head.0": f"{half}.norm_out" for half in ("encoder", "decoder")},
    **{f"{half}.head.2": f"{half}.conv_out" for half in ("encoder", "decoder")},
}
INSIDE_BLOCKS = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "shortcut",
}
RESAMPLING = {"resample.1": "spatial.layer.1", "time_conv": "time_conv"}
MIDDLE = {"0": ("block1", INSIDE_BLOCKS), "2": ("block2", INSIDE_BLOCKS)}
ATTENTION = ("norm", "to_qkv", "proj")


def rename(key: str) -> str | None:
    """Return our name of a published weight, or None if there is no such weight."""
    module, _, leaf = key.rpartition(".")
    ours = ENDS.get(module) or _rename_middle(module) or _rename_stage(module)
    return ours and f"{ours}.{leaf}"


def naming(keys: Iterable[str]) -> Naming:
    """Return how a file with these keys calls its weights."""
    layers = (*INSIDE_BLOCKS, *RESAMPLING)
    stages = [f"encoder.downsamples.0.downsamples.0.{layer}" for layer in layers]
    stages += [f"decoder.upsamples.0.upsamples.0.{layer}" for layer in layers]
    middle = [f"{half}.middle.0.{layer}" for half in ("encoder", "decoder") for layer in (*INSIDE_BLOCKS, *ATTENTION)]
    leaves = ("weight", "bias", "gamma")
    return Naming(rename, tuple(keys), [f"{module}.{leaf}" for module in (*ENDS, *stages, *middle) for leaf in leaves])


def _rename_middle(module: str) -> str | None:
    found = re.fullmatch(r"(encoder|decoder)\.middle\.(\d)\.(.+)", module)
    if found is None:
        return None
    half, place, layer = found.groups()
    if place == "1":
        return f"{half}.middle.attention.layer.{layer}" if layer in ATTENTION else None
    block, layers = MIDDLE.get(place, ("", {}))
    return f"{half}.middle.{block}.{layers[layer]}" if layer in layers else None


def _rename_stage(module: str) -> str | None:
    found = re.fullmatch(r"(encoder\.down|decoder\.up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.+)", module)
    if found is None:
        return None
    half, stage, block, layer = found.groups()
    half, direction = half.split(".")
    if layer in RESAMPLING:
        return f"{half}.stages.{stage}.{direction}sample.{RESAMPLING[layer]}"
    return f"{half}.stages.{stage}.blocks.{block}.{INSIDE_BLOCKS[layer]}" if layer in INSIDE_BLOCKS else None


def infer_config(state: State) -> dict[str, Any]:
    """Return the arguments of `VisualTokenizer` that translated weights tell: all but rounds and layout.

    Raises:
        GenrefineError: if a weight that tells a size is missing.
    """
    try:
        encoder_width = len(state["encoder.conv_in.weight"])
        latent_dim = len(state["conv_dequant.weight"])
        stages = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.stages."))
        multipliers = [len(state[f"encoder.stages.{i}.blocks.0.conv1.weight"]) // encoder_width for i in range(stages)]
        return {
            "latent_dim": latent_dim,
            "encoder_width": encoder_width,
            "decoder_width": len(state["decoder.norm_out.gamma"]) // multipliers[0],
            "channel_multipliers": multipliers,
            "num_blocks": len(
                [key for key in state if re.fullmatch(r"encoder\.stages\.0\.blocks\.\d+\.conv1\.weight", key)]
            ),
            "temporal_downsample": [
                f"encoder.stages.{i}.downsample.time_conv.weight" in state for i in range(stages - 1)
            ],
            "temporal_kernel": state["encoder.conv_in.weight"].shape[2],
            "encoder_outputs": len(state["conv_quant.weight"]) // latent_dim,
        }
    except (KeyError, ValueError) as error:
        lacks = naming(()).in_file(error.args[0]) if isinstance(error, KeyError) else "encoder.downsamples"
        raise GenrefineError(f"checkpoint must be a published tokenizer; it has no {lacks}") from error


def tokenizer_from_weights(
    state: Mapping[str, Tensor], rounds: int = 4, layout: Layout = "bit", bounded: bool = True
) -> VisualTokenizer:
    """Return a `VisualTokenizer` with published weights.

    Args:
        state: weights under published names.
        rounds: binary rounds of its codes.
        layout: "bit" or "index".
        bounded: latents go through tanh (`encoder_out_type` "feature_tanh"; False for "feature").

    Raises:
        GenrefineError: if names or shapes are not those of the published network.
    """
    ours = translate(state, rename)
    chosen = {"rounds": rounds, "layout": layout, "bounded": bounded}
    return build_exactly(VisualTokenizer, {**infer_config(ours), **chosen}, ours, naming(state))
