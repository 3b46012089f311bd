"""What every pipeline does alike: decode, load, save (diffusers' `DiffusionPipeline` with strict folders)."""

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float, Int
from torch import Tensor

from genrefine import registry
from genrefine.errors import GenrefineError
from genrefine.files import require_writable_folder, write_atomically
from genrefine.model_folder.checks import LOADING_OPTIONS, check_pipeline_folder
from genrefine.model_folder.checksums import write_checksums
from genrefine.model_folder.find import ADAPTER_FILES, FETCHING, fetch_folder
from genrefine.pipelines.progress import CALLBACK_INPUTS
from genrefine.pipelines.request import refuse_unknown
from genrefine.refiner.adapter import Adapter
from genrefine.tokenizer import VisualTokenizer

FOLDER_CODE = "pipeline.py"


class RefinementPipeline(DiffusionPipeline, LoraBaseMixin):  # type: ignore[misc]
    """Hold a refiner, a visual tokenizer and a sampler; `ClassPipeline` and `TextPipeline` add what they are told.

    Adapters go by diffusers' words: `load_lora_weights`, `set_adapters(names, weights)`, `disable_lora`, `fuse_lora`,
    `unload_lora_weights`.
    """

    _lora_loadable_modules: ClassVar[list[str]] = ["refiner"]  # type: ignore[misc]

    _callback_tensor_inputs = CALLBACK_INPUTS
    _settings: ClassVar[tuple[str, ...]] = ()
    """Arguments of the constructor that are no components."""

    def register_modules(self, **components: Any) -> None:
        """Take the components, and note the address that a saved folder names them by: never that of a module."""
        super().register_modules(**components)
        ours = [name for name, part in components.items() if type(part).__name__ in registry.COMPONENTS]
        self.register_to_config(**{name: (registry.ADDRESS, type(components[name]).__name__) for name in ours})

    @classmethod
    def load_config(cls, *arguments: Any, **options: Any) -> Any:
        """Read a `model_index.json`; addresses of earlier versions become those of today."""
        loaded = super().load_config(*arguments, **options)
        if isinstance(loaded, tuple):
            return (registry.with_current_addresses(loaded[0]), *loaded[1:])
        return registry.with_current_addresses(loaded)

    def to_json_string(self) -> str:
        """Return the content of `model_index.json`, with the class as stock diffusers finds it; see `registry`."""
        content = json.loads(super().to_json_string())
        content["_class_name"] = [FOLDER_CODE.removesuffix(".py"), type(self).__name__]
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "batch channels t h w"]) -> Float[Tensor, "batch 3 frames height width"]:
        """Decode codes to pixels in [-1, 1], each picture by itself so that it cannot depend on the others."""
        decode_one = apply_forward_hook(VisualTokenizer.decode)  # brings an offloaded tokenizer to its device
        device = self._execution_device
        return torch.cat([decode_one(self.visual_tokenizer, one.to(device)) for one in codes.split(1)]).float()

    def load_lora_weights(  # type: ignore[override]
        self, folder: str | os.PathLike[str], adapter_name: str = "default", scale: float = 1.0, **fetching: Any
    ) -> Adapter:
        """Put an adapter beside the refiner's weights and return it as it was read.

        Args:
            folder: what training or `ClassRefiner.save_lora_adapter` wrote, or a repository of the hub, "org/name".
            adapter_name: what to call it.
            scale: multiplies its effect; 0 is the model without it.
            fetching: options of the hub client: `cache_dir`, `force_download`, `local_files_only`, `revision`, `token`.

        Raises:
            GenrefineError: the folder is no adapter, or one of another model; an unknown option.
        """
        refuse_unknown(fetching, FETCHING, "load_lora_weights")
        if not os.path.isdir(folder):
            folder = fetch_folder(os.fspath(folder), fetching, ADAPTER_FILES, "adapter")
        adapter: Adapter = self.refiner.load_lora_adapter(folder, adapter_name)
        if scale != 1:
            weights = self.refiner.adapter_scales()
            self.refiner.set_adapters(list(weights), [*list(weights.values())[:-1], scale])
        return adapter

    def fuse_lora(  # type: ignore[override]
        self, lora_scale: float = 1.0, adapter_names: list[str] | None = None
    ) -> None:
        """Add the adapters that are on to the weights; `unload_lora_weights` then leaves plain weights behind.

        Args:
            lora_scale: multiplies their effect.
            adapter_names: those to add; default is all that are on.
        """
        super().fuse_lora(["refiner"], lora_scale, adapter_names=adapter_names)

    def unfuse_lora(self) -> None:  # type: ignore[override]
        """Subtract again what `fuse_lora` added."""
        super().unfuse_lora(["refiner"])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a pipeline folder, or a repository of the hub, after checking everything in it.

        Args:
            pretrained_model_name_or_path: folder, or "org/name".
            kwargs: `dtype`, `device_map`, `quantization_config` and the like, `revision`, `token`, `cache_dir`,
                `local_files_only`, or components that take the place of those in the folder.

        Raises:
            GenrefineError: no such model; a missing, truncated or altered weight file; an unknown key or argument.
        """
        parts = arguments_of(cls.__init__)
        refuse_unknown(kwargs, [*LOADING_OPTIONS, *parts], "loading")
        name = os.fspath(pretrained_model_name_or_path)
        folder = Path(name) if os.path.isdir(name) else fetch_folder(name, kwargs)
        components = [part for part in parts if part not in cls._settings]
        check_pipeline_folder(folder, cls.__name__, cls._settings, components, kwargs)
        pipeline = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        for part in (pipeline, pipeline.refiner, pipeline.visual_tokenizer):
            _forget_origin(part)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        if isinstance(dtype, torch.dtype) and {pipeline.refiner.dtype, pipeline.visual_tokenizer.dtype} != {dtype}:
            pipeline.to(dtype)  # diffusers knows one or the other word, depending on its version
        return pipeline

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the pipeline folder: components, settings, checksums of the weights.

        Args:
            save_directory: folder, made if it does not exist.
            push_to_hub: upload it, too.
            kwargs: `max_shard_size`, and for the upload `repo_id`, `token`, `private`, `commit_message`, `create_pr`.

        Raises:
            GenrefineError: the folder cannot be written, an argument is unknown, or there is an adapter.
        """
        known = ["max_shard_size", "repo_id", "token", "private", "commit_message", "create_pr"]
        refuse_unknown(kwargs, known, "saving")
        self.refiner.require_no_adapter()
        require_writable_folder(save_directory)
        shards = {key: value for key, value in kwargs.items() if key == "max_shard_size"}
        write_atomically(Path(save_directory) / FOLDER_CODE, code_for(type(self).__name__).encode())
        super().save_pretrained(os.fspath(save_directory), **shards)
        write_checksums(Path(save_directory))
        if push_to_hub:  # writes the same files again and uploads the folder, now with its checksums
            super().save_pretrained(os.fspath(save_directory), push_to_hub=True, **kwargs)


def code_for(class_name: str) -> str:
    """Return a folder's `pipeline.py`: what stock diffusers runs, if it is trusted, to find our class."""
    return (
        '"""Where diffusers finds the class of this model; `genrefine.load` does without this file."""\n\n'
        "try:\n"
        f"    from genrefine import {class_name}\n"
        "except ImportError as error:\n"
        '    raise ImportError("this model needs the package genrefine: pip install genrefine") from error\n\n'
        f'__all__ = ["{class_name}"]\n'
    )


def require_same_codes(refiner: Any, tokenizer: VisualTokenizer) -> None:
    """Refuse a refiner whose codes are not those of the tokenizer.

    Raises:
        GenrefineError: channels or classes differ.
    """
    config = config_of(refiner)
    expected = (tokenizer.code_channels, tokenizer.num_classes)
    got = (config.code_channels, config.code_classes)
    if expected != got:
        raise GenrefineError(
            f"refiner and tokenizer must speak the same codes; the tokenizer has {expected[0]} channels of "
            f"{expected[1]} classes, the refiner {got[0]} of {got[1]}; use parts that were trained together"
        )


def require_count(num_images_per_prompt: Any) -> None:
    """Refuse a number of pictures per prompt that is no count."""
    if not isinstance(num_images_per_prompt, int) or num_images_per_prompt < 1:
        raise GenrefineError(f"num_images_per_prompt must be at least 1; got {num_images_per_prompt}")


def _forget_origin(part: Any) -> None:
    """Drop the note where a part was loaded from, which would be saved with it: a path of this machine."""
    part._internal_dict = FrozenDict({key: value for key, value in part.config.items() if key != "_name_or_path"})


def config_of(part: Any) -> Any:
    """Return a configuration whose keys are also attributes, which diffusers' annotations do not say."""
    return part.config


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a function or method takes, without `self`."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in named and p.name != "self"]
