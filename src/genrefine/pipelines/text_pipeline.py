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
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrefine.conditioning.text_condition import FirstFrame, TextCondition
from genrefine.conditioning.text_encoder import MAX_TOKENS, TextEncoder
from genrefine.errors import GenrefineError
from genrefine.pipelines.output import (
    Clips,
    Images,
    TextPipelineOutput,
    require_output_type,
    to_clips,
    to_output,
)
from genrefine.pipelines.progress import StepCallback, watched
from genrefine.pipelines.refinement_pipeline import (
    RefinementPipeline,
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
from genrefine.pipelines.text_request import (
    Embeddings,
    FirstFrames,
    Prompt,
    TextRun,
    resolve_first_frames,
    resolve_grid,
    resolve_prompts,
    with_first_frames,
)
from genrefine.refiner import TextRefiner
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.guidance import apply_guidance
from genrefine.sampling.random_source import SeededSource
from genrefine.sampling.records import RefinementStep, collect
from genrefine.sampling.sampler import refine
from genrefine.tokenizer import VisualTokenizer


class TextPipeline(RefinementPipeline):
    """Make pictures and clips of what prompts say, or set a given picture in motion.

    Args:
        refiner: predicts clean codes.
        visual_tokenizer: decodes them, and encodes first frames.
        sampler: holds the sampling defaults of the model.
        text_encoder: a transformers encoder, frozen.
        tokenizer: its tokenizer.
        height: of the pictures the model was trained for, in pixels.
        width: of these pictures.
        frames_per_second: of the clips it was trained for.
        max_tokens: longest prompt.

    Raises:
        GenrefineError: the parts do not fit each other.

    Example:
        >>> pipe = TextPipeline.from_pretrained("my-model")  # doctest: +SKIP
        >>> pipe("a red heart", seed=7).images[0].save("heart.png")  # doctest: +SKIP
        >>> pipe("a red heart", num_frames=17, seed=7).frames[0][16].save("last.png")  # doctest: +SKIP
    """

    model_cpu_offload_seq = "text_encoder->refiner->visual_tokenizer"  # type: ignore[assignment]
    text_encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _settings = ("height", "width", "frames_per_second", "max_tokens")

    def __init__(
        self,
        refiner: TextRefiner,
        visual_tokenizer: VisualTokenizer,
        sampler: RefinementSampler,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        height: int = 64,
        width: int = 64,
        frames_per_second: float = 12.0,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        super().__init__()
        require_same_codes(refiner, visual_tokenizer)
        encoder = TextEncoder(text_encoder, tokenizer, max_tokens)
        if encoder.channels != config_of(refiner).text_channels:
            raise GenrefineError(
                f"refiner and text encoder must have embeddings of one width; the refiner reads "
                f"{config_of(refiner).text_channels} channels, the encoder gives {encoder.channels}; "
                "use the text encoder that the refiner was trained with"
            )
        if not 0 < frames_per_second < float("inf"):
            raise GenrefineError(f"frames_per_second must be a positive number; got {frames_per_second}")
        visual_tokenizer.grid(1, height, width)
        self.register_modules(
            refiner=refiner,
            visual_tokenizer=visual_tokenizer,
            sampler=sampler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
        self.register_to_config(
            height=height, width=width, frames_per_second=float(frames_per_second), max_tokens=max_tokens
        )
        self._prompt_encoder = encoder

    @property
    def prompt_encoder(self) -> TextEncoder:
        """The text encoder with its tokenizer and its memory of the latest prompts."""
        encoder = self._prompt_encoder
        if encoder.model is not self.text_encoder or encoder.tokenizer is not self.tokenizer:
            self._prompt_encoder = TextEncoder(self.text_encoder, self.tokenizer, config_of(self).max_tokens)
        return self._prompt_encoder

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width that the model was trained for, in pixels."""
        return config_of(self).height, config_of(self).width

    @property
    def frames_per_second(self) -> float:
        """Frames per second of clips."""
        return float(config_of(self).frames_per_second)

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompt = None,
        *,
        negative_prompt: Prompt = "",
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        num_frames: int = 1,
        first_frame: FirstFrames = None,
        seed: int | Sequence[int] | None = None,
        generator: Generators | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
        prompt_embeds: Embeddings = None,
        negative_prompt_embeds: Embeddings = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("prediction",),
        **sampling: Any,
    ) -> TextPipelineOutput | tuple[Images | Clips]:
        """Make pictures or clips.

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
            output_type: "pil", "np", "pt", or "codes" for the codes themselves, undecoded.
            return_dict: False returns `(images or frames,)` only.
            callback_on_step_end: called as `(pipe, step, signal, tensors)` after every step. It looks on and changes
                nothing, except that `pipe._interrupt = True` ends the refinement there.
            callback_on_step_end_tensor_inputs: what `tensors` holds: "prediction" and "state" (codes of the samples
                still at work), "record" (the whole `RefinementStep`).
            sampling: see `RefinementSampler`; and `adaptive=True` in place of `num_inference_steps`.

        Raises:
            GenrefineError: an unknown argument or setting, or a value out of range.
        """
        require_output_type(output_type)
        run = self.plan(
            prompt,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            height=height,
            width=width,
            num_frames=num_frames,
            first_frame=first_frame,
            seed=seed,
            generator=generator,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            **sampling,
        )
        max_steps = run.sampling.steps.max_steps
        steps = self.steps(run, noise)
        result = collect(watched(self, steps, max_steps, callback_on_step_end, callback_on_step_end_tensor_inputs))
        made: Any = result.codes
        if output_type not in ("codes", "latent"):
            pixels = self.decode(result.codes)
            made = to_output(pixels, output_type) if num_frames == 1 else to_clips(pixels, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (made,)
        return TextPipelineOutput(
            images=made if num_frames == 1 else None,
            frames=None if num_frames == 1 else made,
            prompts=run.prompts,
            seeds=run.seeds,
            num_steps=result.num_steps.tolist(),
            entropy=[list(trace) for trace in result.entropy],
            num_evaluations=result.num_evaluations.tolist(),
            codes=result.codes,
            settings=run.settings,
        )

    def refine(
        self, prompt: Prompt = None, *, noise: Int[Tensor, "batch channels t h w"] | None = None, **request: Any
    ) -> Iterator[RefinementStep]:
        """Return an iterator over the steps of a refinement: for films, previews and studies.

        Arguments are those of the call; `decode(step.prediction)` shows how far the samples are.
        """
        return self.steps(self.plan(prompt, **request), noise)

    @torch.no_grad()
    def plan(
        self,
        prompt: Prompt = None,
        *,
        negative_prompt: Prompt = "",
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        num_frames: int = 1,
        first_frame: FirstFrames = None,
        seed: int | Sequence[int] | None = None,
        generator: Generators | None = None,
        prompt_embeds: Embeddings = None,
        negative_prompt_embeds: Embeddings = None,
        **sampling: Any,
    ) -> TextRun:
        """Check a request, encode its prompts and first frames, draw its seeds and fill in the defaults of the model.

        Raises:
            GenrefineError: an unknown argument or setting, or a value out of range.
        """
        refuse_unknown(sampling, [*arguments_of(type(self).__call__), *SAMPLING_ARGUMENTS], "the pipeline")
        require_count(num_images_per_prompt)
        own = self.picture_size
        height, width = height if height is not None else own[0], width if width is not None else own[1]
        has_first_frame = first_frame is not None
        grid = resolve_grid(self.visual_tokenizer, own, num_frames, height, width, has_first_frame)
        if has_first_frame and self.refiner.config.attention == "prefix":
            raise GenrefineError("a model with prefix attention takes no first frame; use one with joint attention")
        prompted = resolve_prompts(self.prompt_encoder, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        settings, arguments = resolve_sampling(self.sampler, sampling, "prompt", prompted.has_prompt)
        each = [index for index in range(len(prompted.texts)) for _ in range(num_images_per_prompt)]
        seeds = resolve_seeds(len(each), seed, generator)
        frames = resolve_first_frames(first_frame, len(prompted.texts), height, width)
        codes = self._encode_first_frames(frames)
        negatives = [prompted.negatives[index] for index in each]
        if None not in negatives:
            arguments["negative_prompt"] = negatives[0] if len(set(negatives)) == 1 else negatives
        return TextRun(
            prompts=[prompted.texts[index] for index in each],
            condition=self._condition(
                [prompted.embeddings[index] for index in each],
                [prompted.nulls[index] for index in each],
                [codes[index] for index in each] if codes else [None] * len(each),
            ),
            seeds=seeds,
            grid=grid,
            sampling=settings,
            settings={**arguments, "height": height, "width": width, "num_frames": num_frames},
        )

    def steps(self, run: TextRun, noise: Int[Tensor, "batch channels t h w"] | None = None) -> Iterator[RefinementStep]:
        """Carry out a plan, step by step; a given first frame stands before every prediction, as kept."""
        device, config = self._execution_device, self.refiner.config
        prepare = apply_forward_hook(TextRefiner.prepare)  # brings an offloaded refiner to its device
        with torch.no_grad():
            condition = prepare(self.refiner, run.condition)
        frames, rows, columns = run.grid
        records = refine(
            apply_guidance(self.refiner, condition, run.sampling.guidance),
            SeededSource(run.seeds, device),
            (config.code_channels, frames - run.has_first_frame, rows, columns),
            config.code_classes,
            run.sampling,
            noise.to(device) if noise is not None else None,
        )
        return _whole(records, run.condition.first_frames) if run.has_first_frame else records

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a pipeline folder, or a repository of the hub; see `RefinementPipeline.from_pretrained`.

        The text encoder is stored in half precision; it is loaded in `dtype` like the rest, float32 by default.
        """
        pipeline: TextPipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype")) or torch.float32
        encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
        if "text_encoder" not in kwargs:
            encoder.config._name_or_path = encoder.name_or_path = ""  # else saved with it: a path of this machine
            if isinstance(dtype, torch.dtype) and not getattr(encoder, "is_quantized", False):
                nn.Module.to(encoder, dtype)
        if "tokenizer" not in kwargs:
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
        if encoder.dtype != text_encoder_dtype and not getattr(encoder, "is_quantized", False):
            self.text_encoder = nn.Module.to(copy.deepcopy(encoder), text_encoder_dtype)
        try:
            super().save_pretrained(save_directory, push_to_hub, **kwargs)
        finally:
            self.text_encoder = encoder

    def _encode_first_frames(self, frames: Sequence[Float[Tensor, "1 3 1 height width"]]) -> list[FirstFrame]:
        """Return the codes of first frames, each encoded by itself and once."""
        encode = apply_forward_hook(VisualTokenizer.encode)
        device, dtype = self._execution_device, self.visual_tokenizer.dtype
        codes = {id(frame): frame for frame in frames}
        codes = {key: encode(self.visual_tokenizer, frame.to(device, dtype))[0] for key, frame in codes.items()}
        return [codes[id(frame)] for frame in frames]

    def _condition(
        self, prompts: list[Tensor], nulls: list[Tensor], first_frames: Sequence[FirstFrame | None]
    ) -> TextCondition:
        device = self._execution_device
        moved = {id(tokens): tokens.to(device) for tokens in (*prompts, *nulls)}  # equal prompts stay one tensor
        return TextCondition.of(
            [moved[id(tokens)] for tokens in prompts], [moved[id(tokens)] for tokens in nulls], first_frames
        )


def _whole(records: Iterator[RefinementStep], first_frames: Sequence[FirstFrame | None]) -> Iterator[RefinementStep]:
    """Put the given first frames before what every step says of the others."""
    for record in records:
        given = [frame for sample in record.active.tolist() if (frame := first_frames[sample]) is not None]
        held = [torch.ones_like(frame, dtype=torch.bool) for frame in given]
        yield replace(
            record,
            prediction=with_first_frames(record.prediction, given),
            state=with_first_frames(record.state, given),
            was_held=with_first_frames(record.was_held, held),
            is_held=with_first_frames(record.is_held, held),
        )
