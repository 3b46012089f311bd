"""Pictures from class names: refiner, visual tokenizer and sampler as one diffusers pipeline (arXiv 2604.13030).

    class names, seeds --> condition, noise N --> sampler (guided refiner) --> codes --> visual tokenizer --> pictures

Every picture owns a seed. Its codes come from its own random stream and it is decoded by itself, so that a seed gives
the same picture alone, in any batch and in any order. Arguments that are not given are those saved with the model in
`sampler/`; what was used in the end comes back with the result.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.errors import GenrefineError
from genrefine.pipelines.class_adapters import ClassAdapters
from genrefine.pipelines.class_request import ClassLabel, ClassRun, resolve_classes
from genrefine.pipelines.output import ClassPipelineOutput, Images, require_output_type, to_output
from genrefine.pipelines.progress import StepCallback, watched
from genrefine.pipelines.refinement_pipeline import (
    arguments_of,
    config_of,
    require_count,
    require_same_codes,
)
from genrefine.pipelines.request import (
    SAMPLING_ARGUMENTS,
    Generators,
    refuse_unknown,
    resolve_sampling,
    resolve_seeds,
)
from genrefine.refiner import ClassRefiner
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.guidance import apply_guidance
from genrefine.sampling.random_source import SeededSource
from genrefine.sampling.records import RefinementStep, collect
from genrefine.sampling.sampler import refine
from genrefine.tokenizer import VisualTokenizer

ClassLabels = ClassLabel | Sequence[ClassLabel] | Tensor


class ClassPipeline(ClassAdapters):
    """Make pictures of given classes.

    Args:
        refiner: predicts clean codes.
        visual_tokenizer: decodes them.
        sampler: holds the sampling defaults of the model.
        class_names: name of each class; default is its number.

    Raises:
        GenrefineError: the parts do not fit each other.

    Example:
        >>> pipe = ClassPipeline.from_pretrained("my-model")  # doctest: +SKIP
        >>> pipe("flags/noto", seed=7).images[0].save("flag.png")  # doctest: +SKIP
    """

    model_cpu_offload_seq = "refiner->visual_tokenizer"  # type: ignore[assignment]
    _settings = ("class_names",)

    def __init__(
        self,
        refiner: ClassRefiner,
        visual_tokenizer: VisualTokenizer,
        sampler: RefinementSampler,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        num_classes = config_of(refiner).num_classes
        names = [str(number) for number in range(num_classes)] if class_names is None else list(class_names)
        _require_fit(refiner, visual_tokenizer, names)
        self.register_modules(refiner=refiner, visual_tokenizer=visual_tokenizer, sampler=sampler)
        self.register_to_config(class_names=names)

    @property
    def class_names(self) -> list[str]:
        """Name of each class, in the order of their numbers."""
        return list(config_of(self).class_names)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        stride = self.visual_tokenizer.spatial_stride
        rows, columns = self.refiner.config.grid
        return rows * stride, columns * stride

    @torch.no_grad()
    def __call__(
        self,
        class_labels: ClassLabels = None,
        *,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: Generators | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("prediction",),
        **sampling: Any,
    ) -> ClassPipelineOutput | tuple[Images]:
        """Make pictures.

        Args:
            class_labels: a class name or number, None for no class, or a list of them.
            num_images_per_prompt: pictures per label; those of one label follow each other.
            seed: seed of the first picture, the others following by ones; or a list, one per picture. By default
                seeds come from the system's entropy and are reported.
            generator: in place of seed; draws the seeds.
            noise: codes to start from, one map per picture, in place of those of the seeds (diffusers: `latents`).
            output_type: "pil", "np", "pt", or "codes" for the codes themselves, undecoded.
            return_dict: False returns `(images,)` only.
            callback_on_step_end: called as `(pipe, step, signal, tensors)` after every step. It looks on and changes
                nothing, except that `pipe._interrupt = True` ends the refinement there.
            callback_on_step_end_tensor_inputs: what `tensors` holds: "prediction" and "state" (codes of the pictures
                still at work), "record" (the whole `RefinementStep`).
            sampling: `num_inference_steps` or `adaptive=True`, `guidance_scale` (1 is off), `guidance_interval`,
                `guidance_interval_closed`, `guidance_power`, `temperature`, `schedule`, `schedule_cap`,
                `schedule_steps`, `final_pass`, `shift`, `kernel`, `kernel_switch`, `signal`, `stop_at`; see
                `RefinementSampler`.

        Raises:
            GenrefineError: an unknown class, argument or setting, or a value out of range.
        """
        require_output_type(output_type)
        run = self.plan(class_labels, num_images_per_prompt, seed, generator, **sampling)
        max_steps = run.sampling.steps.max_steps
        steps = self.steps(run, noise)
        result = collect(watched(self, steps, max_steps, callback_on_step_end, callback_on_step_end_tensor_inputs))
        wants_codes = output_type in ("codes", "latent")
        images = result.codes if wants_codes else to_output(self.decode(result.codes), output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images,)
        return ClassPipelineOutput(
            images=images,
            class_labels=[self._name(number) for number in run.classes],
            seeds=run.seeds,
            num_steps=result.num_steps.tolist(),
            entropy=[list(trace) for trace in result.entropy],
            num_evaluations=result.num_evaluations.tolist(),
            codes=result.codes,
            settings=run.settings,
        )

    def refine(
        self,
        class_labels: ClassLabels = None,
        *,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
        **request: Any,
    ) -> Iterator[RefinementStep]:
        """Return an iterator over the steps of a refinement: for films, previews and studies.

        Arguments are those of the call; `decode(step.prediction)` shows how far the pictures are.
        """
        return self.steps(self.plan(class_labels, **request), noise)

    def plan(
        self,
        class_labels: ClassLabels = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: Generators | None = None,
        **sampling: Any,
    ) -> ClassRun:
        """Check a request, draw its seeds and fill in the defaults of the model.

        Raises:
            GenrefineError: an unknown class, argument or setting, or a value out of range.
        """
        refuse_unknown(sampling, [*arguments_of(type(self).__call__), *SAMPLING_ARGUMENTS], "the pipeline")
        require_count(num_images_per_prompt)
        labels = resolve_classes(class_labels, self.class_names)
        classes = [number for number in labels for _ in range(num_images_per_prompt)]
        has_class = any(number < len(self.class_names) for number in classes)
        settings, arguments = resolve_sampling(self.sampler, sampling, "class", has_class)
        return ClassRun(classes, resolve_seeds(len(classes), seed, generator), settings, arguments)

    def steps(
        self, run: ClassRun, noise: Int[Tensor, "batch channels t h w"] | None = None
    ) -> Iterator[RefinementStep]:
        """Carry out a plan, step by step."""
        device, config = self._execution_device, self.refiner.config
        condition = ClassCondition.of(run.classes, config.num_classes, device)
        return refine(
            apply_guidance(self.refiner, condition, run.sampling.guidance),
            SeededSource(run.seeds, device),
            (config.code_channels, 1, *config.grid),
            config.code_classes,
            run.sampling,
            noise.to(device) if noise is not None else None,
        )

    def _name(self, number: int) -> str | None:
        return self.class_names[number] if number < len(self.class_names) else None


def _require_fit(refiner: ClassRefiner, tokenizer: VisualTokenizer, class_names: Sequence[str]) -> None:
    require_same_codes(refiner, tokenizer)
    num_classes = config_of(refiner).num_classes
    if not len(class_names) == len(set(class_names)) == num_classes:
        raise GenrefineError(f"class_names must be {num_classes} different names; got {len(class_names)}")
