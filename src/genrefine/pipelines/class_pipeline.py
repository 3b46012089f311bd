"""Pictures from class names: refiner, visual tokenizer and sampler as one diffusers pipeline (arXiv 2604.13030).

    class names, seeds --> condition, noise N --> sampler (guided refiner) --> codes --> visual tokenizer --> pictures

Every picture owns a seed. Its codes come from its own random stream and it is decoded by itself, so that a seed gives
the same picture alone, in any batch and in any order. Arguments that are not given are those saved with the model in
`sampler/`; what was used in the end comes back with the result.
"""

import difflib
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

from jaxtyping import Int
from torch import Tensor, nn

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.errors import GenrefineError
from genrefine.pipelines.editing import EditOptions, edited_settings
from genrefine.pipelines.output import ClassPipelineOutput, Images
from genrefine.pipelines.refinement_pipeline import RefinementPipeline, config_of, require_same_codes, settings_beside
from genrefine.pipelines.request import (
    Generators,
    Request,
    arguments_of,
    called_like,
    refuse_unknown,
    resolve_count,
    resolve_options,
    resolve_seeds,
)
from genrefine.refiner import ClassRefiner
from genrefine.refiner.adapter_folder import Adapter
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.options import with_options
from genrefine.tokenizer import VisualTokenizer

ClassLabel = int | str | None
ClassLabels = ClassLabel | Sequence[ClassLabel] | Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassRequest(Request):
    """Pictures of classes.

    Args:
        classes: class number of each picture, the number of classes standing for none.
    """

    classes: list[int]


class ClassPipeline(RefinementPipeline):
    """Make pictures of given classes.

    Args:
        refiner: predicts clean codes.
        visual_tokenizer: decodes them.
        sampler: holds the sampling defaults of the model.
        class_names: name of each class; default is what a pipeline with this refiner knows, else its number.

    Raises:
        GenrefineError: the parts do not fit each other.

    Example:
        >>> pipe = ClassPipeline.from_pretrained("my-model")  # doctest: +SKIP
        >>> pipe("flags/noto", seed=7).images[0].save("flag.png")  # doctest: +SKIP
    """

    model_cpu_offload_seq = "refiner->visual_tokenizer"  # type: ignore[assignment]
    _settings = ("class_names",)
    _own_classes: tuple[nn.Module, list[int | None] | None, list[str]] | None = None
    """Class table, its origin and names as they were before an adapter brought its own."""

    def __init__(
        self,
        refiner: ClassRefiner,
        visual_tokenizer: VisualTokenizer,
        sampler: RefinementSampler,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        if class_names is None:
            class_names = settings_beside(refiner).get("class_names")
        numbers = range(config_of(refiner).num_classes)
        names = [str(number) for number in numbers] if class_names is None else list(class_names)
        _require_fit(refiner, visual_tokenizer, names)
        self.register_modules(refiner=refiner, visual_tokenizer=visual_tokenizer, sampler=sampler)
        self._keep_settings(class_names=names)

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

    @with_options
    def prepare(
        self,
        class_labels: ClassLabels = None,
        *,
        num_images_per_prompt: SupportsIndex = 1,
        seed: SupportsIndex | Sequence[SupportsIndex] | None = None,
        generator: Generators | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        outpaint: Sequence[SupportsIndex] | None = None,
        blend: bool = True,
        **sampling: Any,
    ) -> ClassRequest:
        """Check a request, draw its seeds and fill in the defaults of the model.

        Args:
            class_labels: a class name or number, None for no class, or a list of them.
            num_images_per_prompt: pictures per label; those of one label follow each other.
            seed: seed of the first picture, the others following by ones; or a list, one per picture. By default
                seeds come from the system's entropy and are reported.
            generator: in place of seed; draws the seeds.
            noise: codes to start from, one map per picture, in place of those of the seeds (diffusers: `latents`).
            image: picture to edit, or a list, one per label: PIL, a path, or a tensor "3 height width" in [0, 1], of
                any size; it is scaled to fit, and comes back at its own size ("pil") or as the model sees it.
            mask_image: white where to make anew, of the size of the picture; every position of the grid of codes that
                white touches. The codes elsewhere are the picture's own.
            strength: 1 makes from nothing what may change, less begins at signal 1 - strength from the picture's own
                codes, 0 is the picture as codes hold it. Default: 1 with a mask or margins, else 0.6.
            outpaint: pixels to add left, above, right and below.
            blend: lay the picture's own pixels over everything but the mask, with a feathered edge.
            sampling: `sampling.options.SamplingOptions` to use in place of those saved with the model.

        Raises:
            GenrefineError: an unknown class, argument or option, or a value out of range.
        """
        refuse_unknown(sampling, arguments_of(type(self).__call__), "the pipeline")
        count = resolve_count(num_images_per_prompt)
        labels = resolve_classes(class_labels, self.class_names)
        classes = [number for number in labels for _ in range(count)]
        has_class = any(number < len(self.class_names) for number in classes)
        options, settings = resolve_options(self.sampler, sampling, "class", has_class)
        names = [*self.class_names, None]
        changes = EditOptions(mask_image, strength, outpaint, blend)
        known = self._edits(image, changes, len(labels), self.picture_size, 1)
        edits = [edit for edit in known for _ in range(count)]
        return ClassRequest(
            classes=classes,
            labels=[names[number] for number in classes],
            seeds=resolve_seeds(len(classes), seed, generator),
            grid=(1, *self.refiner.config.grid),
            sampling=edited_settings(settings, edits, changes.effective_strength),
            settings=options.arguments() | (changes.settings() if edits else {}),
            noise=noise,
            edits=edits,
            blend=blend,
        )

    @called_like(prepare, RefinementPipeline.run)
    def __call__(self, class_labels: ClassLabels = None, **arguments: Any) -> ClassPipelineOutput | tuple[Images]:
        """Make pictures: `run(prepare(class_labels, ...), ...)`.

        Args:
            class_labels: a class name or number, None for no class, or a list of them.
            arguments: those of `prepare` and of `run`.

        Raises:
            GenrefineError: an unknown class, argument or option, or a value out of range.
        """
        made: ClassPipelineOutput | tuple[Images] = self._call(class_labels, arguments)
        return made

    def load_lora_weights(  # type: ignore[override]
        self,
        source: str | os.PathLike[str] | Mapping[str, Tensor],
        adapter_name: str = "default",
        scale: float = 1.0,
        **options: Any,
    ) -> Adapter:
        """Put an adapter beside the refiner's weights; see `AdapterMixin.load_lora_weights`.

        An adapter with classes of its own replaces those of the model until it is unloaded.
        """
        before = self.refiner.class_embedding, self.refiner.class_rows, self.class_names
        adapter = super().load_lora_weights(source, adapter_name, scale, **options)
        if adapter.facts.class_rows is not None:
            names = adapter.facts.class_names or [str(number) for number in range(len(adapter.facts.class_rows))]
            self._own_classes = before
            self._keep_settings(class_names=names)
        return adapter

    def unload_lora_weights(self) -> None:
        """Take all adapters away. What was fused stays; otherwise the model is again what it was, classes included."""
        is_fused = any(getattr(layer, "merged_adapters", ()) for layer in self.refiner.modules())
        super().unload_lora_weights()
        if self._own_classes is not None and not is_fused:
            table, rows, names = self._own_classes
            self.refiner.class_embedding, self.refiner.class_rows = table, rows
            self.refiner.register_to_config(num_classes=len(names))
            self._keep_settings(class_names=names)
        self._own_classes = None

    def _condition(self, request: ClassRequest) -> ClassCondition:
        return ClassCondition.of(request.classes, config_of(self.refiner).num_classes, self._execution_device)

    def _output(self, request: ClassRequest, made: Images, facts: dict[str, Any]) -> ClassPipelineOutput:
        return ClassPipelineOutput(images=made, class_labels=request.labels, **facts)


def _require_fit(refiner: ClassRefiner, tokenizer: VisualTokenizer, class_names: Sequence[str]) -> None:
    require_same_codes(refiner, tokenizer)
    num_classes = config_of(refiner).num_classes
    if not len(class_names) == len(set(class_names)) == num_classes:
        raise GenrefineError(f"class_names must be {num_classes} different names; got {len(class_names)}")


def resolve_classes(class_labels: Any, class_names: Sequence[str]) -> list[int]:
    """Return one class number per label, the number of classes standing for no class.

    Args:
        class_labels: a name, a number, None, or a sequence or tensor of them.
        class_names: name of each class.

    Raises:
        GenrefineError: no labels, an unknown name or a number out of range.
    """
    if hasattr(class_labels, "tolist"):  # tensors, arrays and their scalars
        class_labels = class_labels.tolist()
    if class_labels is None or isinstance(class_labels, (str, int)):
        class_labels = [class_labels]
    numbers = [_class_number(label, class_names) for label in class_labels]
    if not numbers:
        raise GenrefineError("class_labels must name at least one class; got none; pass None for no class")
    return numbers


def _class_number(label: Any, class_names: Sequence[str]) -> int:
    if label is None:
        return len(class_names)
    if isinstance(label, str):
        return _named_class(label, class_names)
    try:
        number = operator.index(label)
    except TypeError:
        raise GenrefineError(f"a class is a name, a whole number or None; got {label!r}") from None
    if isinstance(label, bool) or not 0 <= number < len(class_names):
        raise GenrefineError(f"class numbers run from 0 to {len(class_names) - 1}; got {label}; use None for no class")
    return number


def _named_class(name: str, class_names: Sequence[str]) -> int:
    if name in class_names:
        return list(class_names).index(name)
    parts = [known for known in class_names if name and name in known.split("/")]
    if parts:
        # A group or a style alone stands for several classes: choosing one would be a guess.
        raise GenrefineError(f"class '{name}' is not one class but {len(parts)}; name one of: {_some(parts)}")
    near = difflib.get_close_matches(name, class_names, n=3, cutoff=0.5)
    hint = f"did you mean {_some([repr(word) for word in near])}?" if near else f"there are: {_some(class_names)}"
    raise GenrefineError(f"no class '{name}' among {len(class_names)}; {hint}")


def _some(words: Sequence[str], most: int = 8) -> str:
    return ", ".join(words[:most]) + (f", ... ({len(words) - most} more)" if len(words) > most else "")
