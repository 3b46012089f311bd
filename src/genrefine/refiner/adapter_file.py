"""Adapters in the layout of diffusers: one safetensors file, the component's name in front of every weight.

    refiner.blocks.0.attention.output.lora_A.weight     and the like
    header "lora_adapter_metadata"                      peft's configuration, its keys with the same word in front

Without that header the scale is 1, so `lora_alpha` is the rank, as diffusers takes it. Our own header stands beside it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.files import json_object, require_writable_folder, write_atomically
from genrefine.refiner.adapter_folder import (
    CONFIG,
    HEADER,
    Adapter,
    AdapterFacts,
    facts_in,
    named_factors,
    plain_config,
    rank_and_alpha,
    read_adapter,
    require_peft,
    stored_weights,
)

COMPONENT, SINGLE_FILE, METADATA = "refiner", "pytorch_lora_weights.safetensors", "lora_adapter_metadata"

AdapterSource = str | os.PathLike[str] | Mapping[str, Tensor]


def read_any_adapter(source: AdapterSource, weight_name: str | None = None, prefix: str | None = COMPONENT) -> Adapter:
    """Read an adapter in either layout.

    Args:
        source: a folder of peft's, a file of diffusers' layout or its folder, or weights by name.
        weight_name: file in the folder, in diffusers' layout.
        prefix: of names in diffusers' layout, without its dot; None for none.

    Raises:
        GenrefineError: there is no adapter, or one that this library does not know.
    """
    require_peft()
    if isinstance(source, Mapping):
        return _adapter(source, {}, prefix, "the state dict")
    path = Path(source)
    if path.is_dir():
        if weight_name is None and ((path / CONFIG).is_file() or not (path / SINGLE_FILE).is_file()):
            return read_adapter(path)  # which says what is missing from a folder without any
        path = path / (weight_name or SINGLE_FILE)
    header, weights = stored_weights(path)
    return _adapter(weights, header, prefix, f"'{path}'")


def write_single_file(
    path: Path,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    facts: AdapterFacts | None = None,
) -> None:
    """Write an adapter as one file.

    Args:
        path: its name; folders are made.
        weights: factors by "layer.lora_A.weight" and the like.
        config: peft's, as a dictionary; None for a scale of 1.
        facts: for our own header.

    Raises:
        GenrefineError: the weights are none of an adapter, or could not be loaded again; the folder cannot be written.
    """
    factors = named_factors(weights, "", "the adapter to save")
    header = {"format": "pt"}
    if config is not None:
        header[METADATA] = json.dumps({f"{COMPONENT}.{key}": value for key, value in plain_config(config).items()})
    else:
        _rank(factors, "the adapter to save")
    if facts is not None:
        header[HEADER] = json.dumps(asdict(facts))
    require_writable_folder(path.parent)
    stored = {f"{COMPONENT}.{name}": tensor.detach().cpu().contiguous() for name, tensor in factors.items()}
    write_atomically(path, save(stored, header))


def _adapter(weights: Mapping[str, Any], header: Mapping[str, str], prefix: str | None, where: str) -> Adapter:
    front = f"{prefix}." if prefix else ""
    factors = named_factors(weights, front, where)
    rank = _rank(factors, where)
    alpha, facts = float(rank), AdapterFacts()
    if METADATA in header:
        told = json_object(header[METADATA], f"the header of {where}", "fetch or save the adapter again")
        stated, alpha = rank_and_alpha({key.removeprefix(front): value for key, value in told.items()}, where)
        if stated != rank:
            raise GenrefineError(f"{where} must have factors of rank {stated}, as it says; got {rank}; save it again")
    if HEADER in header:
        facts = facts_in(header[HEADER], Path(where.strip("'")))
    return Adapter(rank, alpha, factors, facts)


def _rank(factors: Mapping[str, Tensor], where: str) -> int:
    """Return the one rank of all factors."""
    ranks = {
        factor.shape[0] for name, factor in factors.items() if name.partition(".lora_")[2].endswith(("A.weight", "A"))
    }
    if len(ranks) != 1:
        raise GenrefineError(f"{where} must hold factors of one rank; got {sorted(ranks) or 'none'}; give another one")
    return int(ranks.pop())
