"""Low-rank adapters: small trained differences beside frozen weights (LoRA, Hu et al. 2021), over peft and diffusers.

    y = W x + scale B A x       linear layers; A is rank x inputs, B outputs x rank, and B starts at 0
    e = W_c + scale B A_c       the class table, whose A starts at 0

So a fresh adapter changes nothing, scale 0 is the network without it, and merging adds scale B A to W once and for all.
`adapter_folder` says what one is on disk.
"""

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from genrefine.errors import GenrefineError
from genrefine.refiner.adapter_file import COMPONENT, AdapterSource, read_any_adapter, write_single_file
from genrefine.refiner.adapter_folder import (
    Adapter,
    AdapterFacts,
    require_base,
    require_peft,
    weight_sizes,
    write_adapter,
)

if TYPE_CHECKING:
    from peft import LoraConfig

Parts = Literal["attention", "blocks"]
DEFAULT = "default"
BESIDE_SIZES = (
    "quantization_config",
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"),
)
"""What a configuration may hold beside the constructor's arguments: diffusers' quantization, and its `EMAModel`."""


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
        self,
        save_directory: str | os.PathLike[str],
        adapter_name: str = DEFAULT,
        class_names: Sequence[str] = (),
        weight_name: str | None = None,
    ) -> None:
        """Write an adapter as a folder that this library and peft can read, or as the one file of diffusers' layout.

        Args:
            save_directory: folder, made if it does not exist.
            adapter_name: which one.
            class_names: names of the classes, for pipelines.
            weight_name: of the one file; None for a folder.

        Raises:
            GenrefineError: there is no such adapter, it could not be loaded again (DoRA), or cannot be written.
        """
        weights = self.adapter_weights(adapter_name)
        sizes = weight_sizes(cast(nn.Module, self), {name.partition(".lora_")[0] for name in weights})
        facts = AdapterFacts(type(self).__name__, sizes, self.class_rows, list(class_names))
        config = self.peft_config[adapter_name].to_dict()
        if weight_name is None:
            write_adapter(save_directory, weights, config, facts)
        else:
            write_single_file(Path(save_directory) / weight_name, weights, config, facts)

    def load_lora_adapter(  # type: ignore[override]
        self,
        source: AdapterSource,
        adapter_name: str = DEFAULT,
        *,
        weight_name: str | None = None,
        prefix: str | None = COMPONENT,
        use_safetensors: bool = True,
    ) -> Adapter:
        """Put an adapter beside the weights, switch it on, and return it as it was read.

        An adapter with classes of its own replaces the class table first.

        Args:
            source: a folder of peft's, a file of diffusers' layout or its folder, or weights by name.
            adapter_name: what to call it.
            weight_name: file in the folder, in diffusers' layout.
            prefix: of names in diffusers' layout, without its dot; None for none.
            use_safetensors: True; there is no other.

        Raises:
            GenrefineError: there is no adapter, or one of another network.
        """
        require_peft()
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

        if not use_safetensors:
            raise GenrefineError("weights are safetensors only; got use_safetensors=False; leave it out")
        folder = "the state dict" if isinstance(source, Mapping) else source  # for errors
        adapter, network = read_any_adapter(source, weight_name, prefix), cast(nn.Module, self)
        if adapter_name in self.adapters:
            raise GenrefineError(f"there is an adapter '{adapter_name}' already; give another name or unload it")
        rows = adapter.facts.class_rows
        if rows is not None and self.adapters:
            raise GenrefineError(
                f"'{folder}' has classes of its own and goes beside no other adapter; unload the others"
            )
        require_base(network, adapter, folder)
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

    @classmethod
    @wraps(ModelMixin.from_pretrained)
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """Load a network as `ModelMixin.from_pretrained` does.

        A quantization leaves the head as it is, whose logits the step budget reads to small differences.
        """
        if (quantization := options.get("quantization_config")) is not None:
            options["quantization_config"] = _without_head(quantization)
        before = torch.get_default_dtype()
        try:
            return cast(Any, super()).from_pretrained(*arguments, **options)
        finally:
            torch.set_default_dtype(before)  # which diffusers leaves changed after an error

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


def _without_head(quantization: Any) -> Any:
    """Return a copy of a quantization that passes over the head, `head.linear`; some compare parts of names only."""
    changed = copy.deepcopy(quantization)
    for name in ("modules_to_not_convert", "llm_int8_skip_modules"):
        if hasattr(changed, name):
            setattr(changed, name, [*dict.fromkeys([*(getattr(changed, name) or []), "head", "linear"])])
    return changed
