"""What every pipeline does alike: run a request, load, save (diffusers' `DiffusionPipeline` with strict folders).

    request = pipe.prepare(...)      checked once: seeds drawn, defaults filled in, prompts encoded
    output = pipe.run(request)       refined and decoded; `rows` for some of its samples

and `pipe(...)` is `pipe.run(pipe.prepare(...))`.
"""

import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from genrefine import registry
from genrefine.errors import GenrefineError
from genrefine.files import one_line, require_writable_folder, write_atomically
from genrefine.model_folder.checks import LOADING_OPTIONS, check_pipeline_folder
from genrefine.model_folder.checksums import write_checksums
from genrefine.model_folder.find import fetch_folder
from genrefine.pipelines.adapters import AdapterMixin
from genrefine.pipelines.codes import CodesMixin
from genrefine.pipelines.editing import Edit, EditOptions, known_codes, resolve_edits
from genrefine.pipelines.output import facts_of, require_output_type, to_clips, to_output
from genrefine.pipelines.progress import CALLBACK_INPUTS, Call, Calls, FollowedGuidance, StepCallback, watched
from genrefine.pipelines.request import Request, arguments_of, refuse_unknown
from genrefine.sampling.guidance import apply_guidance
from genrefine.sampling.random_source import SeededSource
from genrefine.sampling.records import RefinementStep, collect
from genrefine.sampling.sampler import refine
from genrefine.tokenizer import VisualTokenizer

FOLDER_CODE = "pipeline.py"


class RefinementPipeline(AdapterMixin, CodesMixin, DiffusionPipeline):  # type: ignore[misc]
    """Hold a refiner, a visual tokenizer and a sampler; `ClassPipeline` and `TextPipeline` add what they are told.

    Adapters go by diffusers' words: `load_lora_weights`, `set_adapters(names, weights)`, `disable_lora`, `fuse_lora`,
    `unload_lora_weights`.
    """

    _callback_tensor_inputs = CALLBACK_INPUTS
    _settings: ClassVar[tuple[str, ...]] = ()
    """Arguments of the constructor that are no components."""
    _may_lack: ClassVar[tuple[str, ...]] = ()
    """Components that a whole folder may lack; a caller may pass None for others."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = Calls()

    @property
    def guidance_scale(self) -> float:
        """Guidance of the present call; a callback changes it as `pipe._guidance_scale`."""
        return self._calls.present.guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the present call is guided."""
        return self.guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Most refinements of the present call."""
        return self._calls.present.num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the present call ends with this step; a callback, or another thread, sets `pipe._interrupt`."""
        return self._calls.present.interrupt

    def _set_interrupt(self, value: bool) -> None:
        for call in self._calls.meant:
            call.interrupt = bool(value)

    def _set_guidance_scale(self, value: float) -> None:
        for call in self._calls.meant:
            call.guidance_scale = float(value)

    _interrupt = property(lambda self: self.interrupt, _set_interrupt)
    _guidance_scale = property(lambda self: self.guidance_scale, _set_guidance_scale)

    def __getattr__(self, name: str) -> Any:
        """Look a setting up; what a property raised is raised again instead of "no attribute"."""
        own = inspect.getattr_static(type(self), name, None)
        return own.fget(self) if isinstance(own, property) and own.fget else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a component of ours that takes another's place is saved by its address, see `registry`."""
        super().__setattr__(name, value)
        if type(value).__name__ in registry.COMPONENTS and name in self.__dict__.get("_internal_dict", {}):
            self.register_to_config(**{name: (registry.ADDRESS, type(value).__name__)})

    def _keep_settings(self, **settings: Any) -> None:
        """Register settings, and note them beside the refiner, so that `Pipeline(**pipe.components)` has them too."""
        self.register_to_config(**settings)
        if self.refiner is not None:
            self.refiner.__dict__["_pipeline_settings"] = settings

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

    def _output(self, request: Any, made: Any, facts: dict[str, Any]) -> Any:
        """Return the output of a call; `facts` are those of `facts_of`."""
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
            callback_on_step_end: called as `(pipe, step, signal, tensors)` after every step, with copies that it may
                write to without effect. `pipe._interrupt = True` ends this call's refinement there, and
                `pipe._guidance_scale = ...` guides the steps after it otherwise; the output's `changed` says so.
            callback_on_step_end_tensor_inputs: what `tensors` holds: "prediction" and "state" (codes of the samples
                still at work), "record" (the whole `RefinementStep`).

        Raises:
            GenrefineError: an unknown output type or tensor name, or noise that does not fit.
        """
        require_output_type(output_type)
        request = request if rows is None else request.select(rows)
        sampling = request.sampling
        call = Call(float(request.settings["guidance_scale"]), sampling.steps.max_steps)
        followed = replace(sampling, guidance=FollowedGuidance(sampling.guidance, call, call.guidance_scale))
        with self._calls.one(call):
            steps = self.steps(replace(request, sampling=followed))
            steps = watched(self, call, steps, callback_on_step_end, callback_on_step_end_tensor_inputs)
            result = collect(steps, self.visual_tokenizer.hbq)
        made: Any = result.codes
        if output_type not in ("codes", "latent"):
            pixels = self.decode_latents(cast(Tensor, result.latents))
            made = to_clips(pixels, output_type) if request.is_clip else to_output(pixels, output_type)
            if output_type == "pil":
                made = restored(made, request)
        self.maybe_free_model_hooks()
        return self._output(request, made, facts_of(request, result, call.changed)) if return_dict else (made,)

    def refine(self, *what: Any, **arguments: Any) -> Iterator[RefinementStep]:
        """Return an iterator over the steps of a refinement: for films, previews and studies.

        Arguments are those of `prepare`; `show(step)` decodes how far the samples are.
        """
        return self.steps(self.prepare(*what, **arguments))

    def steps(self, request: Request) -> Iterator[RefinementStep]:
        """Carry out a request, step by step."""
        device, config = self._execution_device, config_of(self.refiner)
        return refine(
            apply_guidance(self.refiner.stepwise(), self._condition(request), request.sampling.guidance),
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

    def _call(self, what: Any, arguments: dict[str, Any]) -> Any:
        """Prepare and run; each word goes where it belongs."""
        running = {name: arguments.pop(name) for name in _RUNNING if name in arguments}
        if "output_type" in running:
            require_output_type(running["output_type"])  # before seeds are drawn and prompts encoded
        return self.run(self.prepare(what, **arguments), **running)

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
        refuse_unknown(kwargs, [*LOADING_OPTIONS, *_SAID_ALREADY, *parts], "loading")
        name = os.fspath(pretrained_model_name_or_path)
        _refuse_pickles(kwargs)
        kwargs = {key: value for key, value in kwargs.items() if key not in _SAID_ALREADY}
        components = [part for part in parts if part not in cls._settings]
        given = [part for part in components if part in kwargs]
        folder = Path(name) if os.path.isdir(name) else fetch_folder(name, kwargs, without=given)
        check_pipeline_folder(folder, cls.__name__, cls._settings, components, given, cls._may_lack)
        try:
            pipeline = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError) as error:
            if isinstance(error, GenrefineError):
                raise
            # A value of the right name and no sense, which only the libraries below know.
            reason = f"{type(error).__name__}: {one_line(error)[:300]}"
            raise GenrefineError(f"'{folder}' cannot be loaded ({reason}); correct it, or fetch it again") from error
        networks = [part for part in (pipeline.refiner, pipeline.visual_tokenizer) if part is not None]
        for part in (pipeline, *networks):
            _forget_origin(part)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        if isinstance(dtype, torch.dtype) and {part.dtype for part in networks} - {dtype}:
            pipeline.to(dtype)  # diffusers knows one or the other word, depending on its version
        return pipeline

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the pipeline folder: components, settings, checksums of the weights.

        Args:
            save_directory: folder, made if it does not exist.
            push_to_hub: upload it, too.
            kwargs: `max_shard_size`, and for the upload `repo_id`, `token`, `private`, `commit_message`, `create_pr`;
                of diffusers' others `safe_serialization=True` and `variant=None`, which are how it is anyway.

        Raises:
            GenrefineError: the folder cannot be written, an argument is unknown, or there is an adapter.
        """
        known = ["max_shard_size", "repo_id", "token", "private", "commit_message", "create_pr"]
        refuse_unknown(kwargs, [*known, *_SAID_ALREADY], "saving")
        _refuse_pickles(kwargs)
        kwargs = {key: value for key, value in kwargs.items() if key not in _SAID_ALREADY}
        if self.refiner is not None:
            self.refiner.require_no_adapter()
        require_writable_folder(save_directory)
        shards = {key: value for key, value in kwargs.items() if key == "max_shard_size"}
        write_atomically(Path(save_directory) / FOLDER_CODE, code_for(type(self).__name__).encode())
        super().save_pretrained(os.fspath(save_directory), **shards)
        write_checksums(Path(save_directory))
        if push_to_hub:  # writes the same files again and uploads the folder, now with its checksums
            super().save_pretrained(os.fspath(save_directory), push_to_hub=True, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]
        """Upload the pipeline folder to a repository of the hub, as `DiffusionPipeline.push_to_hub` does.

        Raises:
            GenrefineError: what keeps it from being saved, before a repository is made.
        """
        _refuse_pickles(kwargs)
        if self.refiner is not None:
            self.refiner.require_no_adapter()
        pushed: str = super().push_to_hub(repo_id, **kwargs)
        return pushed


def restored(made: Any, request: Request) -> Any:
    """Return edited pictures or clips at the size that they came in; others as they are."""
    if not request.edits:
        return made
    clips = made if request.is_clip else [[one] for one in made]
    whole = [edit.restore(clip, request.blend) for edit, clip in zip(request.edits, clips, strict=True)]
    return whole if request.is_clip else [frames[0] for frames in whole]


_SAID_ALREADY = ("safe_serialization", "use_safetensors", "variant")
"""Words of diffusers that have one meaning here."""


def _refuse_pickles(given: Mapping[str, Any]) -> None:
    """Refuse other kinds of weight files than the one that there is."""
    for word in ("safe_serialization", "use_safetensors"):
        if given.get(word) not in (None, True):
            raise GenrefineError(f"weights are safetensors only; got {word}={given[word]!r}; leave it out")
    if (variant := given.get("variant")) is not None:
        raise GenrefineError(
            f"there are no variants of weight files; got variant={variant!r}; for half precision load with "
            "dtype=torch.float16, or save after pipe.to(torch.float16)"
        )


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


def settings_beside(refiner: Any) -> dict[str, Any]:
    """Return the settings of the latest pipeline with this refiner."""
    found: dict[str, Any] = getattr(refiner, "__dict__", {}).get("_pipeline_settings", {})
    return found


def _forget_origin(part: Any) -> None:
    """Drop the note where a part was loaded from, which would be saved with it: a path of this machine."""
    part._internal_dict = FrozenDict({key: value for key, value in part.config.items() if key != "_name_or_path"})


def config_of(part: Any) -> Any:
    """Return a configuration whose keys are also attributes, which diffusers' annotations do not say."""
    return part.config


_RUNNING = [name for name in arguments_of(RefinementPipeline.run) if name not in ("request", "rows")]
