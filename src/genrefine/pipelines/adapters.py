"""Adapters by diffusers' words: `load_lora_weights`, `save_lora_weights`, `set_adapters`, `fuse_lora` and the rest.

Two layouts of files are read and written: peft's folder (`adapter_config.json`, `adapter_model.safetensors`), and the
single file of diffusers (`pytorch_lora_weights.safetensors`), whose names begin with the component: `refiner.blocks...`
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers.loaders.lora_base import LoraBaseMixin
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.model_folder.find import ADAPTER_FILES, FETCHING, fetch_folder
from genrefine.pipelines.request import refuse_unknown
from genrefine.refiner.adapter_file import COMPONENT, SINGLE_FILE, write_single_file
from genrefine.refiner.adapter_folder import Adapter


class AdapterMixin(LoraBaseMixin):  # type: ignore[misc]
    """Let a pipeline take adapters beside its refiner's weights."""

    _lora_loadable_modules: ClassVar[list[str]] = ["refiner"]  # type: ignore[misc]
    refiner: Any

    def load_lora_weights(  # type: ignore[override]
        self,
        source: str | os.PathLike[str] | Mapping[str, Tensor],
        adapter_name: str = "default",
        scale: float = 1.0,
        *,
        weight_name: str | None = None,
        prefix: str | None = COMPONENT,
        **fetching: Any,
    ) -> Adapter:
        """Put an adapter beside the refiner's weights and return it as it was read.

        Args:
            source: what training or `save_lora_adapter` wrote, a safetensors file of diffusers' layout or the folder
                of one, its weights by name, or a repository of the hub, "org/name".
            adapter_name: what to call it.
            scale: multiplies its effect; 0 is the model without it.
            weight_name: file in the folder or repository, in diffusers' layout.
            prefix: of names in diffusers' layout, without its dot; None for none.
            fetching: options of the hub client: `cache_dir`, `force_download`, `local_files_only`, `revision`, `token`.

        Raises:
            GenrefineError: there is no adapter, or one of another model; an unknown option.
        """
        refuse_unknown(fetching, FETCHING, "load_lora_weights")
        if not isinstance(source, Mapping) and not os.path.exists(source):
            names = ADAPTER_FILES if weight_name is None else (*ADAPTER_FILES, weight_name)
            source = fetch_folder(os.fspath(source), fetching, names, "adapter")
        adapter: Adapter = self.refiner.load_lora_adapter(source, adapter_name, weight_name=weight_name, prefix=prefix)
        if scale != 1:
            weights = self.refiner.adapter_scales()
            self.refiner.set_adapters(list(weights), [*list(weights.values())[:-1], scale])
        return adapter

    @classmethod
    def save_lora_weights(  # type: ignore[override]
        cls,
        save_directory: str | os.PathLike[str],
        refiner_lora_layers: Mapping[str, Tensor],
        is_main_process: bool = True,
        weight_name: str | None = None,
        safe_serialization: bool = True,
        refiner_lora_adapter_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the weights of an adapter in diffusers' layout.

        Args:
            save_directory: folder, made if it does not exist.
            refiner_lora_layers: factors by name, from `pipe.refiner.adapter_weights(adapter_name)` or peft's
                `get_peft_model_state_dict`.
            is_main_process: False writes nothing, as the other processes of a training want.
            weight_name: name of the file; default is diffusers'.
            safe_serialization: True; there is no other.
            refiner_lora_adapter_metadata: peft's configuration as a dictionary; without it the scale is taken to be 1,
                `lora_alpha` the rank.

        Raises:
            GenrefineError: the weights are none of an adapter, or cannot be loaded again.
        """
        if not safe_serialization:
            raise GenrefineError("weights are safetensors only; got safe_serialization=False; leave it out")
        if is_main_process:
            path = Path(save_directory) / (weight_name or SINGLE_FILE)
            write_single_file(path, dict(refiner_lora_layers), refiner_lora_adapter_metadata)

    def fuse_lora(  # type: ignore[override]
        self,
        components: list[str] | tuple[str, ...] = ("refiner",),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
    ) -> None:
        """Add the adapters that are on to the weights; `unload_lora_weights` then leaves plain weights behind.

        Args:
            components: the refiner is the only one with adapters.
            lora_scale: multiplies their effect.
            safe_fusing: refuse weights that become infinite or NaN.
            adapter_names: those to add; default is all that are on.
        """
        super().fuse_lora(list(components), lora_scale, safe_fusing, adapter_names)

    def unfuse_lora(  # type: ignore[override]
        self, components: list[str] | tuple[str, ...] = ("refiner",)
    ) -> None:
        """Subtract again what `fuse_lora` added."""
        super().unfuse_lora(list(components))
