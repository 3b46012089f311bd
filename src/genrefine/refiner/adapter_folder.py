"""Adapter folders: what an adapter is on disk, read and written strictly.

A folder is in peft's format, `adapter_config.json` and `adapter_model.safetensors`. The header of the latter holds what
peft has no place for: the class of the network, how large its adapted weights were (beside weights of the same shapes
that were trained otherwise, the adapter means nothing), and the classes of an adapter that has its own.
"""

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from genrefine.errors import GenrefineError
from genrefine.files import json_object, read_json, require_writable_folder, write_atomically

CONFIG, WEIGHTS, HEADER = "adapter_config.json", "adapter_model.safetensors", "genrefine"
_PREFIX = "base_model.model."
_READ = {"r", "lora_alpha", "target_modules", "peft_type"}
_WITHOUT_EFFECT = {"auto_mapping", "inference_mode", "peft_version", "revision", "lora_dropout", "init_lora_weights"}
_WITHOUT_EFFECT |= {"base_model_name_or_path", "task_type"}
# Casting or quantizing weights moves their root mean square by less, training them for a while by more.
_SAME_SIZE = 0.01


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter says of itself beside peft's configuration.

    Args:
        refiner: class of the network.
        base: root mean square of every linear weight that it changes.
        class_rows: for an adapter with classes of its own, where each of them starts, see
            `ClassRefiner.choose_classes`; None for one that keeps the network's classes.
        class_names: of a class refiner's adapter.
    """

    refiner: str = ""
    base: dict[str, float] = field(default_factory=dict)
    class_rows: list[int | None] | None = None
    class_names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Adapter:
    """An adapter as it was read, checked by itself but not against a network.

    Args:
        rank: r.
        alpha: rank times the scale it was trained with.
        weights: factors by "layer.lora_A.weight" and the like.
        facts: what the header says; empty for an adapter that another program made.
    """

    rank: int
    alpha: float
    weights: dict[str, Tensor]
    facts: AdapterFacts

    @property
    def layers(self) -> list[str]:
        """Names of the adapted layers."""
        return sorted({name.partition(".lora_")[0] for name in self.weights})

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(tensor.numel() for tensor in self.weights.values())


def require_peft() -> None:
    """Refuse adapters where peft is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise GenrefineError("adapters need the package peft; pip install 'genrefine[tune]'") from error


def read_adapter(folder: str | os.PathLike[str]) -> Adapter:
    """Read an adapter folder.

    Raises:
        GenrefineError: files are missing or damaged, or hold what this library does not know.
    """
    require_peft()
    path = Path(folder)
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise GenrefineError(f"'{folder}' is no adapter folder: expected {CONFIG} and {WEIGHTS}; check the path")
    config = read_json(path / CONFIG, "fetch or save the adapter again")
    rank, alpha = rank_and_alpha(config, f"'{path / CONFIG}'")
    header, weights = stored_weights(path / WEIGHTS)
    facts = facts_in(header.get(HEADER, "{}"), path / WEIGHTS)
    return Adapter(rank, alpha, named_factors(weights, _PREFIX, f"'{path / WEIGHTS}'"), facts)


def rank_and_alpha(config: Mapping[str, Any], where: str) -> tuple[int, float]:
    """Return r and lora_alpha of peft's configuration of a plain LoRA adapter.

    Args:
        config: as JSON holds it.
        where: it comes from, for errors.

    Raises:
        GenrefineError: a key is unknown, or asks for what a plain LoRA adapter is not (DoRA, ranks by layer, ...).
    """
    from peft import LoraConfig

    defaults: dict[str, Any] = json.loads(json.dumps(LoraConfig().to_dict(), default=sorted))
    for key, value in config.items():
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, 1)
            hint = f"did you mean '{near[0]}'?" if near else "remove it"
            raise GenrefineError(f"{where} has the unknown key '{key}'; {hint}")
        if key not in _READ | _WITHOUT_EFFECT and value != defaults[key]:
            raise GenrefineError(f"{where} sets '{key}' to {value!r}; only plain LoRA adapters can be loaded")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise GenrefineError(f"{where} must say peft_type LORA, r and lora_alpha; give a LoRA adapter")
    return rank, float(alpha)


def stored_weights(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return header and tensors of a safetensors file.

    Raises:
        GenrefineError: it is none, or not whole.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            return stored.metadata() or {}, {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise GenrefineError(f"'{path}' is truncated or damaged ({error}); fetch or save it again") from error


def named_factors(weights: Mapping[str, Any], prefix: str, where: str) -> dict[str, Tensor]:
    """Return the factors of an adapter without what stands before their names.

    Raises:
        GenrefineError: a weight is none of an adapter of a refiner, or is no finite numbers.
    """
    for name, tensor in weights.items():
        if not isinstance(name, str) or not name.startswith(prefix) or ".lora_" not in name:
            expected = f"names as '{prefix}blocks.0.attention.output.lora_A.weight'"
            raise GenrefineError(f"{where} has the unknown weight '{name}'; expected {expected}; give another adapter")
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise GenrefineError(f"weight '{name}' in {where} must be finite numbers; train or fetch it again")
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def write_adapter(
    folder: str | os.PathLike[str], weights: dict[str, Tensor], config: dict[str, Any], facts: AdapterFacts
) -> None:
    """Write an adapter folder that this library and peft can read.

    Args:
        folder: made if it does not exist.
        weights: factors by "layer.lora_A.weight" and the like.
        config: peft's, as a dictionary.
        facts: for the header.

    Raises:
        GenrefineError: the folder cannot be written.
    """
    config = plain_config(config)
    require_writable_folder(folder)
    stored = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    header = {"format": "pt", HEADER: json.dumps(asdict(facts))}
    write_atomically(Path(folder) / WEIGHTS, save(stored, header))
    write_atomically(Path(folder) / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return peft's configuration as JSON holds it.

    Raises:
        GenrefineError: an adapter of this kind (DoRA, ...) could not be loaded again.
    """
    plain: dict[str, Any] = json.loads(
        json.dumps({**config, "inference_mode": True, "base_model_name_or_path": None}, default=sorted)
    )
    rank_and_alpha(plain, "the adapter to save")
    return plain


def facts_in(header: str, path: Path) -> AdapterFacts:
    """Return what a header says, which may come from anywhere."""
    values = json_object(header, f"the header of '{path}'", "fetch or save the adapter again")
    rows, base, names = values.get("class_rows"), values.get("base", {}), values.get("class_names", [])
    is_known = values.keys() <= {"refiner", "base", "class_rows", "class_names"}
    is_typed = (
        isinstance(values.get("refiner", ""), str)
        and isinstance(base, dict)
        and all(isinstance(size, int | float) for size in base.values())
        and (rows is None or (isinstance(rows, list) and all(row is None or type(row) is int for row in rows)))
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and (not names or (rows is not None and len(rows) == len(names)) or rows is None)
    )
    if not is_known or not is_typed:
        raise GenrefineError(f"the header of '{path}' does not describe an adapter; fetch or save the adapter again")
    return AdapterFacts(**values)


def require_base(network: nn.Module, adapter: Adapter, folder: str | os.PathLike[str]) -> None:
    """Refuse an adapter that was trained beside other weights."""
    facts, own = adapter.facts, type(network).__name__
    if facts.refiner and facts.refiner != own:
        raise GenrefineError(
            f"'{folder}' adapts a {facts.refiner}; this is a {own}; load the model it was trained with"
        )
    expected: dict[str, tuple[int, ...]] = {}
    for layer in adapter.layers:
        module = dict(network.named_modules()).get(layer)
        module = getattr(module, "base_layer", module)
        if isinstance(module, nn.Embedding):
            rows = module.num_embeddings if facts.class_rows is None else len(facts.class_rows) + 1
            expected[f"{layer}.lora_embedding_A"] = (adapter.rank, rows)
            expected[f"{layer}.lora_embedding_B"] = (module.embedding_dim, adapter.rank)
        elif isinstance(module, nn.Linear):
            expected[f"{layer}.lora_A.weight"] = (adapter.rank, module.in_features)
            expected[f"{layer}.lora_B.weight"] = (module.out_features, adapter.rank)
        else:
            raise GenrefineError(f"'{folder}' adapts '{layer}', which is no layer of this {own}; load it elsewhere")
    for name in sorted(expected.keys() | adapter.weights.keys()):
        if name not in adapter.weights or name not in expected:
            state = "lacks" if name in expected else "has the unknown"
            raise GenrefineError(f"'{folder}' {state} weight '{name}'; fetch or save the adapter again")
        if (shape := tuple(adapter.weights[name].shape)) != expected[name]:
            raise GenrefineError(
                f"weight '{name}' in '{folder}' must have shape {expected[name]} beside this network; got {shape}; "
                "load the model it was trained with"
            )
    for layer, size in weight_sizes(network, set(facts.base)).items():
        if abs(size - facts.base[layer]) > _SAME_SIZE * facts.base[layer]:
            raise GenrefineError(
                f"'{folder}' was trained beside other weights: those of '{layer}' had a root mean square of "
                f"{facts.base[layer]:.4g}, here {size:.4g}; load the model it was trained with"
            )


def weight_sizes(network: nn.Module, layers: set[str]) -> dict[str, float]:
    """Return the root mean square of the weights of linear layers, without adapters; quantized ones are left out."""
    found = {}
    for name, module in network.named_modules():
        base = getattr(module, "base_layer", module)
        if name in layers and isinstance(base, nn.Linear) and base.weight.is_floating_point():
            found[name] = float(f"{base.weight.detach().double().square().mean().sqrt().item():.6g}")
    return found
