"""Pictures and clips from prompts: text encoder, refiner, visual tokenizer and sampler as one diffusers pipeline.

    prompts --> embeddings --> condition --+
    first frame --> first codes -----------+--> sampler (guided refiner) --> codes --> visual tokenizer --> frames
    seeds --> noise N ---------------------+

A still is a clip of one frame (arXiv 2604.13030, section 3.3). The codes of a given first frame are known: the network
predicts the other latent frames, and all of them are decoded together. Every sample owns a seed, is encoded and decoded
by itself, and is the same alone, in any batch and in any order.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, SupportsIndex

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrefine.conditioning.text_condition import FirstFrame, TextCondition
from genrefine.conditioning.text_encoder import MAX_TOKENS, TextEncoder
from genrefine.errors import GenrefineError, whole_number
from genrefine.pipelines.editing import EditOptions, edited_settings
from genrefine.pipelines.output import Clips, Images, TextPipelineOutput
from genrefine.pipelines.prompt_mixin import PromptMixin
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
from genrefine.pipelines.text_request import (
    Embeddings,
    FirstFrames,
    Prompt,
    TextRequest,
    resolve_first_frames,
    resolve_grid,
    resolve_prompts,
    text_of,
    with_first_frames,
)
from genrefine.refiner import TextRefiner
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.options import with_options
from genrefine.sampling.records import RefinementStep
from genrefine.tokenizer import VisualTokenizer


class TextPipeline(PromptMixin, RefinementPipeline):
    """Make pictures and clips of what prompts say, or set a given picture in motion.

    Args:
        refiner: predicts clean codes.
        visual_tokenizer: decodes them, and encodes first frames.
        sampler: holds the sampling defaults of the model.
        text_encoder: a transformers encoder, frozen.
        tokenizer: its tokenizer.
        height: of the pictures the model was trained for, in pixels; default is what a pipeline with this refiner
            knows, else 64; likewise the others.
        width: of these pictures, 64.
        frames_per_second: of the clips it was trained for, 12.
        max_tokens: longest prompt, 512.

    Parts may be None: without `text_encoder` and `tokenizer` the pipeline takes `prompt_embeds`, with nothing else it
    can `encode_prompt`.

    Raises:
        GenrefineError: the parts do not fit each other.

    Example:
        >>> pipe = TextPipeline.from_pretrained("my-model")  # doctest: +SKIP
        >>> pipe("a red heart", seed=7).images[0].save("heart.png")  # doctest: +SKIP
        >>> pipe("a red heart", num_frames=17, seed=7).frames[0][16].save("last.png")  # doctest: +SKIP
    """

    model_cpu_offload_seq = "text_encoder->refiner->visual_tokenizer"  # type: ignore[assignment]
    _settings = ("height", "width", "frames_per_second", "max_tokens")
    _may_lack = ("text_encoder", "tokenizer")
    _optional_components: ClassVar[list[str]] = [  # type: ignore[misc]
        *("refiner", "visual_tokenizer", "sampler", "text_encoder", "tokenizer")
    ]

    def __init__(
        self,
        refiner: TextRefiner | None = None,
        visual_tokenizer: VisualTokenizer | None = None,
        sampler: RefinementSampler | None = None,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        height: int | None = None,
        width: int | None = None,
        frames_per_second: float | None = None,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        given = {"height": height, "width": width, "frames_per_second": frames_per_second, "max_tokens": max_tokens}
        given = {name: value for name, value in given.items() if value is not None}
        settings = {**_DEFAULTS, **settings_beside(refiner), **given}
        if refiner is not None and visual_tokenizer is not None:
            require_same_codes(refiner, visual_tokenizer)
        encoder = None
        if text_encoder is not None and tokenizer is not None:
            encoder = TextEncoder(text_encoder, tokenizer, settings["max_tokens"])
        if encoder is not None and refiner is not None and encoder.channels != config_of(refiner).text_channels:
            raise GenrefineError(
                f"refiner and text encoder must have embeddings of one width; the refiner reads "
                f"{config_of(refiner).text_channels} channels, the encoder gives {encoder.channels}; "
                "use the text encoder that the refiner was trained with"
            )
        if not 0 < settings["frames_per_second"] < float("inf"):
            raise GenrefineError(f"frames_per_second must be a positive number; got {settings['frames_per_second']}")
        if visual_tokenizer is not None:
            visual_tokenizer.grid(1, settings["height"], settings["width"])
        self.register_modules(
            refiner=refiner,
            visual_tokenizer=visual_tokenizer,
            sampler=sampler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
        self._keep_settings(**{**settings, "frames_per_second": float(settings["frames_per_second"])})
        self._prompt_encoder = encoder

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width that the model was trained for, in pixels."""
        return config_of(self).height, config_of(self).width

    @property
    def frames_per_second(self) -> float:
        """Frames per second of clips."""
        return float(config_of(self).frames_per_second)

    @with_options
    @torch.no_grad()
    def prepare(
        self,
        prompt: Prompt = None,
        *,
        negative_prompt: Prompt = "",
        num_images_per_prompt: SupportsIndex = 1,
        height: SupportsIndex | None = None,
        width: SupportsIndex | None = None,
        num_frames: SupportsIndex = 1,
        first_frame: FirstFrames = None,
        seed: SupportsIndex | Sequence[SupportsIndex] | None = None,
        generator: Generators | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
        prompt_embeds: Embeddings = None,
        negative_prompt_embeds: Embeddings = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        outpaint: Sequence[SupportsIndex] | None = None,
        blend: bool = True,
        **sampling: Any,
    ) -> TextRequest:
        """Check a request, encode its prompts and first frames, draw its seeds and fill in the defaults of the model.

        Args:
            prompt: a text, or a list of them; "" for no particular picture.
            negative_prompt: what guidance leads away from, one for all prompts or one each.
            num_images_per_prompt: samples per prompt; those of one prompt follow each other.
            height: in pixels, a multiple of the visual tokenizer's spatial stride; default is the model's.
            width: likewise.
            num_frames: 1 for a still; 1 + a multiple of the tokenizer's temporal stride for a clip.
            first_frame: picture that a clip begins with: PIL, a path, or a tensor "3 height width" in [0, 1]; or a
                list, one per prompt. One of another size is resized to cover the clip and cropped around its center,
                with a warning.
            seed: seed of the first sample, the others following by ones; or a list, one per sample. By default
                seeds come from the system's entropy and are reported.
            generator: in place of seed; draws the seeds.
            noise: codes to start from, one map per sample, of the latent frames to predict (diffusers: `latents`).
            prompt_embeds: in place of prompts: "prompts tokens channels", or a list of "tokens channels".
            negative_prompt_embeds: in place of negative prompts, likewise, or one for all.
            image: picture to edit, or a list, one per prompt: PIL, a path, or a tensor "3 height width" in [0, 1], of
                any size; it is scaled to fit, and comes back at its own size ("pil") or as the model sees it. Of
                a clip: its frames, None for those to be made and fewer for those that follow, or a film's path.
            mask_image: white where to make anew, of the size of the picture; every position of the grid of codes that
                white touches. The codes elsewhere are the picture's own. Of a clip one for all frames, or a list.
            strength: 1 makes from nothing what may change, less begins at signal 1 - strength from the picture's own
                codes, 0 is the picture as codes hold it. Default: 1 with a mask or margins, else 0.6.
            outpaint: pixels to add left, above, right and below.
            blend: lay the picture's own pixels over everything but the mask, with a feathered edge.
            sampling: `sampling.options.SamplingOptions` to use in place of those saved with the model.

        Raises:
            GenrefineError: an unknown argument or option, or a value out of range.
        """
        refuse_unknown(sampling, arguments_of(type(self).__call__), "the pipeline")
        self._require_parts()
        count = resolve_count(num_images_per_prompt)
        own = self.picture_size
        height = own[0] if height is None else whole_number("height", height)
        width = own[1] if width is None else whole_number("width", width)
        num_frames = whole_number("num_frames", num_frames)
        has_first_frame = first_frame is not None
        if has_first_frame and image is not None:
            raise GenrefineError("image holds the frames that are known, the first one too; leave first_frame out")
        frames, rows, columns = resolve_grid(self.visual_tokenizer, own, num_frames, height, width, has_first_frame)
        if has_first_frame and self.refiner.config.attention == "prefix":
            raise GenrefineError("a model with prefix attention takes no first frame; use one with joint attention")
        prompted = resolve_prompts(
            self.refiner.config.text_channels,
            self.has_encoder,
            *(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds),
        )
        if (
            not self.has_encoder
            and negative_prompt_embeds is None
            and self.sampler.options(**sampling).guidance_scale > 1
        ):
            raise GenrefineError(
                "guidance leads away from the empty prompt, and this pipeline has no text encoder for it; "
                "pass negative_prompt_embeds, or guidance_scale=1"
            )
        options, settings = resolve_options(self.sampler, sampling, "prompt", prompted.has_prompt)
        each = [index for index in range(len(prompted.own)) for _ in range(count)]
        seeds = resolve_seeds(len(each), seed, generator)
        given = self._encode_first_frames(resolve_first_frames(first_frame, len(prompted.own), height, width))
        changes = EditOptions(mask_image, strength, outpaint, blend)
        known = self._edits(image, changes, len(prompted.own), (height, width), num_frames)
        edits = [known[index] for index in each] if known else []
        arguments = options.arguments() | (changes.settings() if edits else {})
        prompts, nulls = ([values[index] for index in each] for values in (prompted.own, prompted.nulls))
        negatives = [text_of(null) for null in nulls]
        if None not in negatives:
            arguments["negative_prompt"] = negatives[0] if len(set(negatives)) == 1 else negatives
        return TextRequest(
            labels=[text_of(prompt) for prompt in prompts],
            prompts=prompts,
            nulls=nulls,
            first_frames=[given[index] for index in each] if given else [],
            seeds=seeds,
            grid=(frames - has_first_frame, rows, columns),
            sampling=edited_settings(settings, edits, changes.effective_strength),
            settings={**arguments, "height": height, "width": width, "num_frames": num_frames},
            noise=noise,
            edits=edits,
            blend=blend,
        )

    @called_like(prepare, RefinementPipeline.run)
    def __call__(self, prompt: Prompt = None, **arguments: Any) -> TextPipelineOutput | tuple[Images | Clips]:
        """Make pictures or clips: `run(prepare(prompt, ...), ...)`.

        Args:
            prompt: a text, or a list of them; "" for no particular picture.
            arguments: those of `prepare` and of `run`.

        Raises:
            GenrefineError: an unknown argument or option, or a value out of range.
        """
        made: TextPipelineOutput | tuple[Images | Clips] = self._call(prompt, arguments)
        return made

    def steps(self, request: Request) -> Iterator[RefinementStep]:
        """Carry out a request, step by step; a given first frame stands before every prediction, as kept."""
        records = super().steps(request)
        given = request.first_frames if isinstance(request, TextRequest) else []
        return _whole(records, given) if given else records

    def _condition(self, request: TextRequest) -> TextCondition:
        device = self._execution_device
        tokens = self._encoded((*request.prompts, *request.nulls))
        moved = {id(own): own.to(device) for own in tokens}  # each once
        rows = [moved[id(own)] for own in tokens]
        count = len(request.prompts)
        condition = TextCondition.of(rows[:count], rows[count:], request.first_frames or None)
        prepare = apply_forward_hook(TextRefiner.prepare)  # brings an offloaded refiner to its device
        with torch.no_grad():
            prepared: TextCondition = prepare(self.refiner, condition)
        return prepared

    def _output(self, request: TextRequest, made: Any, facts: dict[str, Any]) -> TextPipelineOutput:
        return TextPipelineOutput(
            images=None if request.is_clip else made,
            frames=made if request.is_clip else None,
            prompts=request.labels,
            **facts,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a pipeline folder, or a repository of the hub; see `RefinementPipeline.from_pretrained`.

        The text encoder is stored in half precision; it is loaded in `dtype` like the rest, float32 by default.
        """
        pipeline: TextPipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype")) or torch.float32
        encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
        if encoder is not None and "text_encoder" not in kwargs:
            encoder.config._name_or_path = encoder.name_or_path = ""  # else saved with it: a path of this machine
            if isinstance(dtype, torch.dtype) and not getattr(encoder, "is_quantized", False):
                nn.Module.to(encoder, dtype)
        if tokenizer is not None and "tokenizer" not in kwargs:
            tokenizer.name_or_path = ""
            for note in ("is_local", "local_files_only"):  # of this loading, else saved too
                tokenizer.init_kwargs.pop(note, None)
        return pipeline

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        text_encoder_dtype: torch.dtype = torch.float16,
        **kwargs: Any,
    ) -> None:
        """Write the pipeline folder; see `RefinementPipeline.save_pretrained`.

        Args:
            save_directory: folder, made if it does not exist.
            push_to_hub: upload it, too.
            text_encoder_dtype: of the encoder's weights on disk. Half precision rounds an encoder that was in float32,
                so the first saving can change pictures slightly; torch.float32 keeps them.
            kwargs: as there.

        Raises:
            GenrefineError: the folder cannot be written, or an argument is unknown.
        """
        encoder = self.text_encoder
        if encoder is not None and encoder.dtype != text_encoder_dtype and not getattr(encoder, "is_quantized", False):
            self.text_encoder = nn.Module.to(copy.deepcopy(encoder), text_encoder_dtype)
        try:
            super().save_pretrained(save_directory, push_to_hub, **kwargs)
        finally:
            self.text_encoder = encoder

    def _encode_first_frames(self, frames: Sequence[Float[Tensor, "1 3 1 height width"]]) -> list[FirstFrame]:
        """Return the codes of first frames, each encoded by itself and once."""
        codes = {id(frame): self.encode(frame)[0] for frame in {id(frame): frame for frame in frames}.values()}
        return [codes[id(frame)] for frame in frames]


_DEFAULTS = {"height": 64, "width": 64, "frames_per_second": 12.0, "max_tokens": MAX_TOKENS}


def _whole(records: Iterator[RefinementStep], first_frames: Sequence[FirstFrame]) -> Iterator[RefinementStep]:
    """Put the given first frames before what every step says of the others."""
    for record in records:
        given = [first_frames[sample] for sample in record.active.tolist()]
        held = [torch.ones_like(frame, dtype=torch.bool) for frame in given]
        yield replace(
            record,
            prediction=with_first_frames(record.prediction, given),
            state=with_first_frames(record.state, given),
            was_held=with_first_frames(record.was_held, held),
            is_held=with_first_frames(record.is_held, held),
            fixed=with_first_frames(record.fixed, held),
        )
