"""Carry out the training of a text-conditional refiner: captions and codes from pictures and clips, then the loop."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from genrefine.conditioning.text_condition import TextCondition
from genrefine.conditioning.text_encoder import TextEncoder
from genrefine.corruption import LogitNormalSignal
from genrefine.data.text_store import FILE, TextStore, encoder_fingerprint, table_of
from genrefine.errors import GenrefineError
from genrefine.experiments.settings import TextRun
from genrefine.experiments.sources import (
    describe,
    finish,
    keep_data,
    load_tokenizer,
    open_clips,
    open_source,
    start_refiner,
)
from genrefine.experiments.text_samples import TextPart, open_parts
from genrefine.files import write_atomically
from genrefine.media.pixels import to_pil
from genrefine.media.sheets import image_grid
from genrefine.refiner import TextRefiner
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.guidance import apply_guidance
from genrefine.sampling.random_source import SeededSource
from genrefine.sampling.records import collect
from genrefine.sampling.sampler import refine
from genrefine.tokenizer import VisualTokenizer
from genrefine.training.loop import train
from genrefine.training.text_refiner_task import TextRefinerTask

SHEET_COLUMNS = 16
NUM_SHOWN_STILLS, NUM_SHOWN_CLIPS = 32, 4
NUM_KNOWN = 256
PREVIEW_STEPS = 24
FRAMES_PER_SECOND = 12.0


def train_text_refiner(settings: TextRun, out: Path, name: str) -> Path:
    """Train what the settings describe, or continue it, and return the folder of the pipeline."""
    if not settings.data.source and not settings.clips.source:
        raise GenrefineError("data.source or clips.source must name pictures or clips; use --set data.source=...")
    if not settings.text_encoder:
        raise GenrefineError("text_encoder must be the folder or hub name of a transformers encoder; got nothing")
    tokenizer = load_tokenizer(settings.tokenizer, settings.rounds)
    encoder = TextEncoder.from_pretrained(settings.text_encoder, settings.max_tokens)
    parts = open_parts(settings, tokenizer, out)
    keep_data(out, [part.source for part in parts])
    captions = [caption for part in parts for group in part.source.captions for caption in group]
    texts = _texts(out.with_name(out.name + "-text"), encoder, captions)
    torch.manual_seed(settings.training.seed)
    refiner = TextRefiner(
        code_channels=tokenizer.code_channels,
        code_classes=tokenizer.code_classes,
        text_channels=encoder.channels,
        **settings.refiner.arguments(),
    )
    base = start_refiner(refiner, settings.refiner.start, settings.lora, tokenizer)
    loss = settings.loss
    task = TextRefinerTask(
        refiner,
        [part.samples(texts) for part in parts],
        texts,
        LogitNormalSignal(loss.signal_mean, loss.signal_std, loss.signal_shift),
        caption_dropout=loss.caption_dropout,
        first_caption_share=loss.first_caption_share,
        first_frame_share=loss.first_frame_share if settings.clips.source else 0.0,
        token_exponent=loss.token_exponent,
        signal=loss.signal,
        batching=loss.batching,
        make_preview=_preview(settings, tokenizer, encoder, parts),
        write=_write(settings, tokenizer, encoder, parts),
    )
    description = {
        "preset": name,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
        "text_encoder_fingerprint": encoder_fingerprint(encoder),
        **base,
        **describe(settings),
    }
    finish(train(task, settings.training, out, description), settings)
    return out / ("adapter" if settings.lora.rank else "pipeline")


def _texts(folder: Path, encoder: TextEncoder, captions: Sequence[str]) -> TextStore:
    """Open the run's text store, making it first where it is not there yet."""
    state = PartialState()
    if state.is_main_process and not (folder / FILE).exists():
        with tqdm(total=len(table_of(captions)), unit="caption", desc="encoding") as bar:
            TextStore.create(folder, encoder, captions, progress=lambda done, _: bar.update(done - bar.n))
    state.wait_for_everyone()
    return TextStore.open(folder, encoder, captions)


def _preview(
    settings: TextRun, tokenizer: VisualTokenizer, encoder: TextEncoder, parts: Sequence[TextPart]
) -> Callable[[TextRefiner], Image.Image]:
    """Return what draws a sheet: stills of prompts, then clips, a row each, the last ones from a given first frame."""
    sampling = RefinementSampler(**asdict(settings.sampler)).settings(
        num_inference_steps=min(PREVIEW_STEPS, settings.sampler.num_inference_steps)
    )
    stills = [part for part in parts if not part.is_clips]
    moving, firsts = _shown_clips(settings, tokenizer, parts)
    asked = [prompt.strip() for prompt in settings.preview.split(";") if prompt.strip()] or _spread(
        _shown_captions(settings, stills), NUM_SHOWN_STILLS
    )

    def pixels(refiner: TextRefiner, condition: TextCondition, grid: tuple[int, int, int]) -> Tensor:
        device = next(refiner.parameters()).device
        code_shape, classes = (tokenizer.code_channels, *grid), tokenizer.code_classes
        bound = apply_guidance(refiner, refiner.prepare(condition.to(device)), sampling.guidance)
        with torch.no_grad():
            steps = refine(bound, SeededSource(range(len(condition)), device), code_shape, classes, sampling)
            latents = collect(steps, tokenizer.hbq).latents
        assert latents is not None
        firsts = condition.first_frames
        whole = [
            made.cpu() if first is None else torch.cat([tokenizer.hbq.decode(first[None].cpu())[0], made.cpu()], dim=1)
            for made, first in zip(latents, firsts, strict=True)
        ]
        return torch.cat([tokenizer.decode_whole(one[None].to(tokenizer.device)).float().cpu() for one in whole])

    def draw(refiner: TextRefiner) -> Image.Image:
        pictures: list[Image.Image] = []
        if stills:
            t, h, w = _most(stills).store.code_shape[1:]
            shown = to_pil(pixels(refiner, encoder.condition(asked), (t, h, w)))
            blank = Image.new("RGB", shown[0].size, "white")
            pictures += shown + [blank] * (-len(shown) % SHEET_COLUMNS)
        if moving:
            t, h, w = tokenizer.grid(settings.clips.num_frames, settings.clips.size, settings.clips.size)
            made = [pixels(refiner, encoder.condition(moving), (t, h, w))]
            if settings.loss.first_frame_share:
                made.append(pixels(refiner, encoder.condition(moving, first_frames=firsts), (t - 1, h, w)))
            for clip in torch.cat(made):
                frames = [to_pil(clip[None, :, f : f + 1])[0] for f in range(clip.shape[1])]
                pictures += _spread(frames, SHEET_COLUMNS) if len(frames) >= SHEET_COLUMNS else _filled(frames)
        return image_grid(pictures, columns=SHEET_COLUMNS)

    return draw


def _shown_captions(settings: TextRun, stills: Sequence[TextPart]) -> list[str]:
    """Return captions of the held-out stills, or of those that are trained on."""
    if not stills:
        return []
    heldout = settings.data.heldout
    sources = [open_source(settings.data, heldout)] if heldout else [part.source for part in stills]
    return [captions[0] for source in sources for captions in source.captions]


def _shown_clips(
    settings: TextRun, tokenizer: VisualTokenizer, parts: Sequence[TextPart]
) -> tuple[list[str], list[Tensor]]:
    """Return captions and codes of the first frames of a few clips, held-out ones where there are any."""
    source = next((part.source for part in parts if part.is_clips), None)
    if source is None:
        return [], []
    if settings.clips.heldout:
        source = open_clips(settings.clips, settings.clips.heldout)
    places = _spread(range(len(source)), NUM_SHOWN_CLIPS)
    frames = torch.stack([source[place][0][:, :1] for place in places])
    codes = tokenizer.encode(frames.to(tokenizer.device, tokenizer.dtype)).cpu()
    return [source.captions[place][0] for place in places], list(codes)


def _filled(frames: list[Image.Image]) -> list[Image.Image]:
    return frames + [Image.new("RGB", frames[0].size, "white")] * (SHEET_COLUMNS - len(frames))


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return some of the items, evenly spread."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _most(parts: Sequence[TextPart]) -> TextPart:
    """Return the part with the most samples."""
    return max(parts, key=lambda part: len(part.source))


def _write(
    settings: TextRun, tokenizer: VisualTokenizer, encoder: TextEncoder, parts: Sequence[TextPart]
) -> Callable[[TextRefiner, Path], None]:
    """Return what saves the averaged refiner as a pipeline; its own size is that of most stills.

    Prompts that it knows are saved beside it, for `genrefine calibrate`.
    """
    known = "".join(f"{prompt}\n" for prompt in _known(parts))
    _, rows, columns = _most([part for part in parts if not part.is_clips] or parts).store.code_shape[1:]

    def write(refiner: TextRefiner, folder: Path) -> None:
        from genrefine.pipelines import PROMPTS, TextPipeline

        if refiner.adapters:
            refiner.save_lora_adapter(folder / "adapter")
            return
        pipe = TextPipeline(
            refiner,
            tokenizer,
            RefinementSampler(**asdict(settings.sampler)),
            encoder.model,
            encoder.tokenizer,
            height=rows * tokenizer.spatial_stride,
            width=columns * tokenizer.spatial_stride,
            frames_per_second=settings.clips.frames_per_second or FRAMES_PER_SECOND,
            max_tokens=settings.max_tokens,
        )
        pipe.save_pretrained(folder / "pipeline")
        write_atomically(folder / "pipeline" / PROMPTS, known.encode())

    return write


def _known(parts: Sequence[TextPart]) -> list[str]:
    """Return distinct first captions, evenly spread, of those that stand in one line."""
    distinct = dict.fromkeys(captions[0].strip() for part in parts for captions in part.source.captions)
    return _spread([caption for caption in distinct if len(caption.splitlines()) == 1], NUM_KNOWN)
