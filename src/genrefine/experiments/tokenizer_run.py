"""Carry out the training of a visual tokenizer: data, networks and task from its settings, then the loop."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from genrefine.data import ClipSource, ImageSource, PixelsOnly
from genrefine.errors import GenrefineError
from genrefine.evaluation.perceptual import EfficientNetPerceptual, ProgramPerceptual
from genrefine.experiments.settings import TokenizerRun
from genrefine.experiments.sources import (
    balanced,
    build_tokenizer,
    describe,
    finish,
    groups,
    keep_data,
    open_clips,
    open_source,
    require_squares,
)
from genrefine.tokenizer import VisualTokenizer
from genrefine.training.discriminator import PatchDiscriminator
from genrefine.training.loop import train
from genrefine.training.mixture import Kind, Mixture
from genrefine.training.tokenizer_task import TokenizerTask

IN_MEMORY_BYTES = 2_000_000_000


NUM_SHOWN = 32


def train_tokenizer(settings: TokenizerRun, out: Path, name: str) -> Path:
    """Train what the settings describe, or continue it, and return the folder of the tokenizer."""
    require_squares(settings)
    if settings.loss.motion and not settings.clips.source:
        raise GenrefineError("loss.motion weighs the motion of clips; name them by clips.source, or set it to 0")
    source = open_source(settings.data)
    moving = open_clips(settings.clips) if settings.clips.source else None
    keep_data(out, [source] if moving is None else [source, moving])
    shown = _shown(open_source(settings.data, settings.data.heldout) if settings.data.heldout else source)
    torch.manual_seed(settings.training.seed)  # initial weights; nothing else draws from the global generator
    tokenizer = build_tokenizer(settings.tokenizer)
    tokenizer.grid(1, settings.data.size, settings.data.size)
    loss = settings.loss
    task = TokenizerTask(
        tokenizer,
        _tokenizer_data(settings, source, moving, tokenizer),
        shown,
        rounds=loss.rounds or (settings.tokenizer.rounds,),
        pixel_weight=loss.pixel,
        perceptual_weight=loss.perceptual,
        adversarial_weight=loss.adversarial,
        motion_weight=loss.motion,
        perceptual=_perceptual(loss.extractor) if loss.perceptual else None,
        discriminator=PatchDiscriminator(loss.discriminator_width, loss.discriminator_layers)
        if loss.adversarial
        else None,
        train_encoder=loss.train_encoder,
        train_decoder=loss.train_decoder,
        flip=loss.flip,
    )
    finish(train(task, settings.training, out, {"preset": name, **describe(settings)}), settings)
    return out / "tokenizer"


class InMemory(Dataset[Tensor]):
    """Decode every picture once and keep it as bytes; small sets train faster so."""

    def __init__(self, source: PixelsOnly) -> None:
        self.name_of = source.name_of
        count = len(source)
        with tqdm(range(count), desc="reading") as bar:
            self.frames = torch.stack([source[i].add(1).mul(127.5).round().to(torch.uint8) for i in bar])

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        """Return pixels in [-1, 1]."""
        return self.frames[index].float() / 127.5 - 1


def _tokenizer_data(
    settings: TokenizerRun, source: ImageSource, moving: ClipSource | None, tokenizer: VisualTokenizer
) -> Dataset[Tensor]:
    """Return pictures, or pictures and clips in batches of their own."""
    stills, clips, batch = _pixels(source, settings.data.size, 1), settings.clips, settings.training.batch_size
    if moving is None:
        return balanced(stills, source, settings.data)
    tokenizer.grid(clips.num_frames, clips.size, clips.size)
    clip_batch = clips.batch_size or max(1, round(batch / clips.num_frames * (settings.data.size / clips.size) ** 2))
    parts = settings.training.gradient_accumulation
    if clip_batch % parts:
        raise GenrefineError(
            f"clips.batch_size must be a multiple of training.gradient_accumulation {parts}; got {clip_batch}"
        )
    return Mixture(
        [stills, _pixels(moving, clips.size, clips.num_frames)],
        [
            Kind("stills", len(source), batch // parts, 1 - clips.share, groups(source, settings.data)),
            Kind("clips", len(moving), clip_batch // parts, clips.share),
        ],
    )


def _pixels(source: ImageSource | ClipSource, size: int, frames: int) -> Dataset[Tensor]:
    fits = len(source) * frames * size * size * 3 <= IN_MEMORY_BYTES
    return InMemory(PixelsOnly(source)) if fits else PixelsOnly(source)


def _shown(source: ImageSource) -> Tensor:
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[:NUM_SHOWN].tolist()
    return torch.stack([source[i][0] for i in order])


def _perceptual(extractor: str) -> EfficientNetPerceptual | ProgramPerceptual:
    return EfficientNetPerceptual() if extractor == "efficientnet-lite0" else ProgramPerceptual(extractor)
