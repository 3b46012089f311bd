"""What every pipeline does alike: run a request, load, save (diffusers' `DiffusionPipeline` with strict folders).

    request = pipe.prepare(...)      checked once: seeds drawn, defaults filled in, prompts encoded
    output = pipe.run(request)       refined and decoded; `rows` for some of its samples

and `pipe(...)` is `pipe.run(pipe.prepare(...))`.
"""

import json
import os
from collections.abc import Iterator, Sequence
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
from genrefine.files import one_line, require_writable_folder, write_atomically
from genrefine.model_folder.checks import LOADING_OPTIONS, check_pipeline_folder
from genrefine.model_folder.checksums import write_checksums
from genrefine.model_folder.find import ADAPTER_FILES, FETCHING, fetch_folder
from genrefine.pipelines.editing import Edit, EditOptions, known_codes, resolve_edits
from genrefine.pipelines.output import require_output_type, to_clips, to_output
from genrefine.pipelines.progress import CALLBACK_INPUTS, StepCallback, watched
from genrefine.pipelines.request import Request, arguments_of, refuse_unknown
from genrefine.refiner.adapter_folder import Adapter
from genrefine.sampling.guidance import apply_guidance
from genrefine.sampling.random_source import SeededSource
from genrefine.sampling.records import RefinementResult, RefinementStep, collect
from genrefine.sampling.sampler import refine
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

    @classmethod
    def extract_init_dict(cls, config_dict: Any, **kwargs: Any) -> Any:
        """Tell components from settings; stock diffusers comes here with addresses of earlier versions, too."""
        return super().extract_init_dict(registry.with_current_addresses(config_dict), **kwargs)

    def to_json_string(self) -> str:
        """Return the content of `model_index.json`, with the class as stock diffusers finds it; see `registry`."""
        content = json.loads(super().to_json_string())
        content["_class_name"] = [FOLDER_CODE.removesuffix(".py"), type(self).__name__]
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def prepare(self, *what: Any, **arguments: Any) -> Request:
        """Check a request, draw its seeds and fill in the defaults of the model."""
        raise NotImplementedError

    def _condition(self, request: Any) -> Any:
        """Return what the refiner is told, on its device."""
        raise NotImplementedError

    def _output(self, request: Any, made: Any, result: RefinementResult) -> Any:
        """Return the output of a call."""
        raise NotImplementedError

    @torch.no_grad()
    def run(
        self,
        request: Request,
        rows: slice | None = None,
        *,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("prediction",),
    ) -> Any:
        """Carry out a request.

        Args:
            request: from `prepare`.
            rows: take only these of its samples; they come out as in the whole.
            output_type: "pil", "np", "pt", or "codes" for the codes themselves, undecoded.
            return_dict: False returns `(images or frames,)` only.
            callback_on_step_end: called as `(pipe, step, signal, tensors)` after every step, with copies. It looks on
                and changes nothing, since a seed and the settings beside a picture must make it again; except that
                `pipe._interrupt = True` ends the refinement there.
            callback_on_step_end_tensor_inputs: what `tensors` holds: "prediction" and "state" (codes of the samples
                still at work), "record" (the whole `RefinementStep`).

        Raises:
            GenrefineError: an unknown output type or tensor name, or noise that does not fit.
        """
        require_output_type(output_type)
        request = request if rows is None else request.select(rows)
        max_steps = request.sampling.steps.max_steps
        steps = watched(self, self.steps(request), max_steps, callback_on_step_end, callback_on_step_end_tensor_inputs)
        result = collect(steps)
        made: Any = result.codes
        if output_type not in ("codes", "latent"):
            pixels = self.decode(result.codes)
            made = to_clips(pixels, output_type) if request.is_clip else to_output(pixels, output_type)
            if output_type == "pil":
                made = restored(made, request)
        self.maybe_free_model_hooks()
        return self._output(request, made, result) if return_dict else (made,)

    def refine(self, *what: Any, **arguments: Any) -> Iterator[RefinementStep]:
        """Return an iterator over the steps of a refinement: for films, previews and studies.

        Arguments are those of `prepare`; `decode(step.prediction)` shows how far the samples are.
        """
        return self.steps(self.prepare(*what, **arguments))

    def steps(self, request: Request) -> Iterator[RefinementStep]:
        """Carry out a request, step by step."""
        device, config = self._execution_device, config_of(self.refiner)
        return refine(
            apply_guidance(self.refiner, self._condition(request), request.sampling.guidance),
            SeededSource(request.seeds, device),
            (config.code_channels, *request.grid),
            config.code_classes,
            request.sampling,
            None if request.noise is None else request.noise.to(device),
            known_codes(request.edits, request.sampling, device),
        )

    def _edits(self, image: Any, options: EditOptions, count: int, size: tuple[int, int], frames: int) -> list[Edit]:
        """Return what is known of each of `count` prompts."""
        tokenizer = self.visual_tokenizer
        strides = tokenizer.spatial_stride, tokenizer.temporal_stride
        return resolve_edits(image, options, count, size, frames, strides, self.encode)

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "batch 3 frames height width"]) -> Int[Tensor, "batch channels t h w"]:
        """Return the codes of pixels in [-1, 1], on the pipeline's device."""
        encode: Any = apply_forward_hook(VisualTokenizer.encode)  # brings an offloaded tokenizer to its device
        codes: Tensor = encode(self.visual_tokenizer, pixels.to(self._execution_device, self.visual_tokenizer.dtype))
        return codes

    def _call(self, what: Any, arguments: dict[str, Any]) -> Any:
        """Prepare and run; each word goes where it belongs."""
        running = {name: arguments.pop(name) for name in _RUNNING if name in arguments}
        if "output_type" in running:
            require_output_type(running["output_type"])  # before seeds are drawn and prompts encoded
        return self.run(self.prepare(what, **arguments), **running)

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
        try:
            pipeline = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError) as error:
            if isinstance(error, GenrefineError):
                raise
            # A value of the right name and no sense, which only the libraries below know.
            reason = f"{type(error).__name__}: {one_line(error)[:300]}"
            raise GenrefineError(f"'{folder}' cannot be loaded ({reason}); correct it, or fetch it again") from error
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


def restored(made: Any, request: Request) -> Any:
    """Return edited pictures or clips at the size that they came in; others as they are."""
    if not request.edits:
        return made
    clips = made if request.is_clip else [[one] for one in made]
    whole = [edit.restore(clip, request.blend) for edit, clip in zip(request.edits, clips, strict=True)]
    return whole if request.is_clip else [frames[0] for frames in whole]


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
    expected = (tokenizer.code_channels, tokenizer.code_classes)
    got = (config.code_channels, config.code_classes)
    if expected != got:
        raise GenrefineError(
            f"refiner and tokenizer must speak the same codes; the tokenizer has {expected[0]} channels of "
            f"{expected[1]} classes, the refiner {got[0]} of {got[1]}; use parts that were trained together"
        )


def _forget_origin(part: Any) -> None:
    """Drop the note where a part was loaded from, which would be saved with it: a path of this machine."""
    part._internal_dict = FrozenDict({key: value for key, value in part.config.items() if key != "_name_or_path"})


def config_of(part: Any) -> Any:
    """Return a configuration whose keys are also attributes, which diffusers' annotations do not say."""
    return part.config


_RUNNING = [name for name in arguments_of(RefinementPipeline.run) if name not in ("request", "rows")]
