"""Low-rank adapters: small trained differences beside frozen weights (LoRA, Hu et al. 2021), over peft and diffusers.

    y = W x + scale B A x       linear layers; A is rank x inputs, B outputs x rank, and B starts at 0
    e = W_c + scale B A_c       the class table, whose A starts at 0

So a fresh adapter changes nothing, scale 0 is the network without it, and merging adds scale B A to W once and for all.
An adapter is a folder in peft's format, `adapter_config.json` and `adapter_model.safetensors`. The header of the
latter holds what peft has no place for: the class of the network, how large its adapted weights were (beside weights
of the same shapes that were trained otherwise, it means nothing), and the classes of an adapter that has its own.
"""

import difflib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from genrefine.errors import GenrefineError
from genrefine.files import require_writable_folder, write_atomically

if TYPE_CHECKING:
    from peft import LoraConfig

Parts = Literal["attention", "blocks"]
CONFIG, WEIGHTS, HEADER = "adapter_config.json", "adapter_model.safetensors", "genrefine"
DEFAULT = "default"
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


def lora_config(refiner: nn.Module, rank: int = 8, scale: float = 1.0, parts: Parts = "blocks") -> "LoraConfig":
    """Return peft's configuration of a fresh adapter, for ``refiner.add_adapter``.

    Args:
        refiner: the network; its class table, if it has one, is always adapted.
        rank: r.
        scale: what the product of the factors is multiplied by.
        parts: "blocks" adapts every linear layer of the blocks, "attention" those of attention only. The head stays as
            it is: its product is float32 and none of peft's business.

    Raises:
        GenrefineError: for a rank below 1 or a scale of 0.
    """
    require_peft()
    from peft import LoraConfig

    if rank < 1 or not scale:
        raise GenrefineError(f"an adapter needs a rank of at least 1 and a scale other than 0; got {rank} and {scale}")
    alpha = rank * scale
    return LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]
        target_modules=[
            name
            for name, module in refiner.named_modules()
            if name == "class_embedding"
            or (
                isinstance(module, nn.Linear)
                and name.startswith("blocks.")
                and (parts == "blocks" or ".attention." in name)
            )
        ],
    )


class AdaptableRefiner(PeftAdapterMixin):  # type: ignore[misc]
    """Let a refiner take adapters: diffusers' methods, with folders read strictly.

    From diffusers come `add_adapter`, `set_adapters(names, weights)`, `disable_lora`, `enable_lora`, `fuse_lora`,
    `unfuse_lora` and `unload_lora`; `fuse_lora` and then `unload_lora` leave plain weights with the difference added.
    """

    class_rows: list[int | None] | None = None
    """Where the classes come from, if they were replaced by `ClassRefiner.choose_classes`."""
    peft_config: dict[str, Any]
    _unloaded = 0

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that are beside the weights."""
        return list(getattr(self, "peft_config", None) or {})

    def adapter_weights(self, adapter_name: str = DEFAULT) -> dict[str, Tensor]:
        """Return the factors of an adapter by name.

        Raises:
            GenrefineError: there is no such adapter.
        """
        if adapter_name not in self.adapters:
            raise GenrefineError(f"this refiner has no adapter '{adapter_name}'; it has {self.adapters or 'none'}")
        from peft.utils import get_peft_model_state_dict

        found: dict[str, Tensor] = get_peft_model_state_dict(
            self, adapter_name=adapter_name, save_embedding_layers=False
        )
        return found

    def save_lora_adapter(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], adapter_name: str = DEFAULT, class_names: Sequence[str] = ()
    ) -> None:
        """Write an adapter as a folder that this library and peft can read.

        Args:
            save_directory: folder, made if it does not exist.
            adapter_name: which one.
            class_names: names of the classes, for pipelines.

        Raises:
            GenrefineError: there is no such adapter, or the folder cannot be written.
        """
        weights = self.adapter_weights(adapter_name)
        require_writable_folder(save_directory)
        sizes = _sizes(cast(nn.Module, self), {name.partition(".lora_")[0] for name in weights})
        facts = AdapterFacts(type(self).__name__, sizes, self.class_rows, list(class_names))
        config = self.peft_config[adapter_name].to_dict()
        config |= {"inference_mode": True, "base_model_name_or_path": None}
        config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        stored = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        header = {"format": "pt", HEADER: json.dumps(asdict(facts))}
        write_atomically(Path(save_directory) / WEIGHTS, save(stored, header))
        write_atomically(Path(save_directory) / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())

    def load_lora_adapter(  # type: ignore[override]
        self, folder: str | os.PathLike[str], adapter_name: str = DEFAULT
    ) -> Adapter:
        """Put an adapter beside the weights, switch it on, and return it as it was read.

        An adapter with classes of its own replaces the class table first.

        Raises:
            GenrefineError: the folder is no adapter, or one of another network.
        """
        require_peft()
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

        adapter, network = read_adapter(folder), cast(nn.Module, self)
        if adapter_name in self.adapters:
            raise GenrefineError(f"there is an adapter '{adapter_name}' already; give another name or unload it")
        rows = adapter.facts.class_rows
        if rows is not None and self.adapters:
            raise GenrefineError(
                f"'{folder}' has classes of its own and goes beside no other adapter; unload the others"
            )
        _require_base(network, adapter, folder)
        if rows is not None:
            cast(Any, self).choose_classes(rows)
        config = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=adapter.layers)  # type: ignore[arg-type]
        before, active = {id(parameter) for parameter in network.parameters()}, list(self.adapter_scales())
        # The factors are drawn, although they are replaced at once. Of a second adapter peft warns; it is wanted.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            inject_adapter_in_model(config, network, adapter_name, low_cpu_mem_usage=True)
        set_peft_model_state_dict(network, adapter.weights, adapter_name, low_cpu_mem_usage=True)
        self._hf_peft_config_loaded = True
        weight = next(parameter for parameter in network.parameters() if id(parameter) in before)
        for parameter in network.parameters():
            if id(parameter) not in before:
                parameter.data = parameter.data.to(weight.device, weight.dtype)
        self.set_adapter([*dict.fromkeys([*active, adapter_name])])
        return adapter

    def fuse_lora(
        self, lora_scale: float = 1.0, safe_fusing: bool = False, adapter_names: list[str] | None = None
    ) -> None:
        """Add the adapters that are on, times a scale, to the weights."""
        # Not by diffusers' own scaling, which passes over embeddings and so over the class table (peft 0.21).
        if lora_scale != 1 and (scales := self.adapter_scales()):
            self.set_adapters(list(scales), [scale * lora_scale for scale in scales.values()])
        super().fuse_lora(1.0, safe_fusing, adapter_names)

    def unload_lora(self) -> None:
        """Take the adapters away; what was fused stays in the weights."""
        self._unloaded += 1
        super().unload_lora()

    @wraps(ModelMixin.save_pretrained)  # pipelines read its signature to know what they may pass
    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """Write the network as `ModelMixin.save_pretrained` does, unless there are adapters."""
        self.require_no_adapter()
        cast(Any, super()).save_pretrained(*arguments, **options)

    def require_no_adapter(self) -> None:
        """Refuse to write adapters into the weights, under names that nobody knows."""
        if self.adapters:
            raise GenrefineError(
                f"the adapter '{self.adapters[0]}' is beside the weights; save it with save_lora_adapter; "
                "to save the whole network, unload it, or fuse and then unload it"
            )

    def adapter_scales(self) -> dict[str, float]:
        """Return the adapters that are on, each with the number that multiplies its effect; 1 as it was trained."""
        if not self.adapters:
            return {}
        layer = self._adapted_layers()[0]
        trained = {name: self.peft_config[name].lora_alpha / self.peft_config[name].r for name in self.adapters}
        return {name: layer.scaling[name] / trained[name] for name in layer.active_adapters}

    def _adapted_layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in cast(nn.Module, self).modules() if isinstance(module, BaseTunerLayer)]

    def _adapter_stamp(self) -> tuple[Any, ...]:
        """Return what changes when adapters are loaded, scaled, trained, merged or unloaded."""
        if not self.adapters:
            return (self._unloaded,)
        layers = self._adapted_layers()
        first = layers[0]
        state = (self._unloaded, tuple(first.active_adapters), first.disable_adapters, tuple(first.merged_adapters))
        versions = sum(p._version for p in layers[-1].parameters() if p.requires_grad and not p.is_inference())
        return (*state, tuple(sorted(first.scaling.items())), versions)


def read_adapter(folder: str | os.PathLike[str]) -> Adapter:
    """Read an adapter folder.

    Raises:
        GenrefineError: files are missing or damaged, or hold what this library does not know.
    """
    require_peft()
    from peft import LoraConfig

    path = Path(folder)
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise GenrefineError(f"'{folder}' is no adapter folder: expected {CONFIG} and {WEIGHTS}; check the path")
    config = _read_config(path / CONFIG)
    defaults: dict[str, Any] = json.loads(json.dumps(LoraConfig().to_dict(), default=sorted))
    for key, value in config.items():
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, 1)
            hint = f"did you mean '{near[0]}'?" if near else "remove it"
            raise GenrefineError(f"'{path / CONFIG}' has the unknown key '{key}'; {hint}")
        if key not in _READ | _WITHOUT_EFFECT and value != defaults[key]:
            raise GenrefineError(f"'{path / CONFIG}' sets '{key}' to {value!r}; only plain LoRA adapters can be loaded")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise GenrefineError(f"'{path / CONFIG}' must say peft_type LORA, r and lora_alpha; give a LoRA adapter")
    try:
        with safe_open(path / WEIGHTS, framework="pt") as stored:
            header = (stored.metadata() or {}).get(HEADER, "{}")
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        facts = AdapterFacts(**json.loads(header))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise GenrefineError(f"'{path / WEIGHTS}' is truncated or damaged ({error}); fetch or save it again") from error
    for name, tensor in weights.items():
        if not name.startswith(_PREFIX) or ".lora_" not in name:
            raise GenrefineError(
                f"'{path / WEIGHTS}' has the unknown weight '{name}'; give a LoRA adapter of a refiner"
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise GenrefineError(
                f"weight '{name}' in '{path / WEIGHTS}' must be finite numbers; train or fetch it again"
            )
    return Adapter(rank, float(alpha), {name.removeprefix(_PREFIX): t for name, t in weights.items()}, facts)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GenrefineError(f"'{path}' is not readable JSON ({error}); fetch or save the adapter again") from error
    if not isinstance(config, dict):
        raise GenrefineError(f"'{path}' must hold a JSON object; got {type(config).__name__}")
    return config


def _require_base(network: nn.Module, adapter: Adapter, folder: str | os.PathLike[str]) -> None:
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
    for layer, size in _sizes(network, set(facts.base)).items():
        if abs(size - facts.base[layer]) > _SAME_SIZE * facts.base[layer]:
            raise GenrefineError(
                f"'{folder}' was trained beside other weights: those of '{layer}' had a root mean square of "
                f"{facts.base[layer]:.4g}, here {size:.4g}; load the model it was trained with"
            )


def _sizes(network: nn.Module, layers: set[str]) -> dict[str, float]:
    """Return the root mean square of the weights of linear layers, without adapters; quantized ones are left out."""
    found = {}
    for name, module in network.named_modules():
        base = getattr(module, "base_layer", module)
        if name in layers and isinstance(base, nn.Linear) and base.weight.is_floating_point():
            found[name] = float(f"{base.weight.detach().double().square().mean().sqrt().item():.6g}")
    return found
