"""Carry a run out: data, networks and task from its settings, then `genrefine.training.loop.train`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from genrefine.corruption import LogitNormalSignal
from genrefine.data import ClipSource, ImageSource, PixelsOnly
from genrefine.errors import GenrefineError
from genrefine.experiments.settings import RefinerRun, TextRun, TokenizerRun
from genrefine.experiments.sources import (
    Run,
    balanced,
    build_tokenizer,
    describe,
    finish,
    groups,
    load_tokenizer,
    open_clips,
    open_codes,
    open_source,
    start_refiner,
)
from genrefine.media.sheets import image_grid
from genrefine.pipelines import ClassPipeline
from genrefine.refiner import ClassRefiner
from genrefine.sampling.sampler import RefinementSampler
from genrefine.tokenizer import VisualTokenizer
from genrefine.training.discriminator import PatchDiscriminator
from genrefine.training.loop import train
from genrefine.training.mixture import Kind, Mixture
from genrefine.training.order import Grouped
from genrefine.training.perceptual import EfficientNetPerceptual, ProgramPerceptual
from genrefine.training.refiner_task import ClassRefinerTask
from genrefine.training.tokenizer_task import TokenizerTask

IN_MEMORY_BYTES = 2_000_000_000
NUM_SHOWN = 32


def run(settings: Run, out: str | Path, name: str = "custom") -> Path:
    """Train what the settings describe, or continue it, and return the folder of the result.

    Args:
        settings: from `genrefine.presets.get`, or built by hand.
        out: folder of the run; an existing run there is continued.
        name: recorded in ``run.json``.

    Raises:
        GenrefineError: settings, data or folder do not fit.
        KeyboardInterrupt: the run was interrupted; it is saved and continues when called again.
    """
    out = Path(out)
    if isinstance(settings, TokenizerRun):
        return _train_tokenizer(settings, out, name)
    if isinstance(settings, TextRun):
        from genrefine.experiments.text_run import train_text_refiner

        return train_text_refiner(settings, out, name)
    return _train_refiner(settings, out, name)


def _train_tokenizer(settings: TokenizerRun, out: Path, name: str) -> Path:
    _require_squares(settings)
    if settings.loss.motion and not settings.clips.source:
        raise GenrefineError("loss.motion weighs the motion of clips; name them by clips.source, or set it to 0")
    source = open_source(settings.data)
    shown = _shown(open_source(settings.data, settings.data.heldout) if settings.data.heldout else source)
    torch.manual_seed(settings.training.seed)  # initial weights; nothing else draws from the global generator
    tokenizer = build_tokenizer(settings.tokenizer)
    tokenizer.grid(1, settings.data.size, settings.data.size)
    loss = settings.loss
    task = TokenizerTask(
        tokenizer,
        _tokenizer_data(settings, source, tokenizer),
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


def _train_refiner(settings: RefinerRun, out: Path, name: str) -> Path:
    _require_squares(settings)
    tokenizer = load_tokenizer(settings.tokenizer, settings.rounds)
    source = open_source(settings.data)
    _, height, width = tokenizer.grid(1, settings.data.size, settings.data.size)
    torch.manual_seed(settings.training.seed)
    refiner = ClassRefiner(
        code_channels=tokenizer.code_channels,
        code_classes=tokenizer.num_classes,
        grid=(height, width),
        num_classes=len(source.class_names),
        **settings.refiner.arguments(),
    )
    base = start_refiner(refiner, settings.refiner.start, settings.lora, tokenizer, source.class_names)
    sampler = RefinementSampler(**asdict(settings.sampler))

    def pipeline(trained: ClassRefiner) -> ClassPipeline:
        pipe = ClassPipeline(trained, tokenizer, sampler, source.class_names)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def preview(trained: ClassRefiner) -> Image.Image:
        count = 64
        labels = [i * len(source.class_names) // count for i in range(count)]
        output = pipeline(trained)(labels, seed=0, num_inference_steps=min(24, settings.sampler.num_inference_steps))
        assert not isinstance(output, tuple)
        return image_grid([p for p in output.images if isinstance(p, Image.Image)], columns=16)

    def write(trained: ClassRefiner, folder: Path) -> None:
        if trained.adapters:
            trained.save_lora_adapter(folder / "adapter", class_names=source.class_names)
        else:
            pipeline(trained).save_pretrained(folder / "pipeline")

    task = ClassRefinerTask(
        refiner,
        _class_data(settings, source, tokenizer, out),
        LogitNormalSignal(settings.loss.signal_mean, settings.loss.signal_std, settings.loss.signal_shift),
        label_dropout=settings.loss.label_dropout,
        tokenizer=None if settings.codes == "store" else tokenizer,
        make_preview=preview,
        write=write,
    )
    description = {"preset": name, "tokenizer_fingerprint": tokenizer.fingerprint(), **base, **describe(settings)}
    finish(train(task, settings.training, out, description), settings)
    return out / ("adapter" if settings.lora.rank else "pipeline")


def _require_squares(settings: TokenizerRun | RefinerRun) -> None:
    if settings.data.buckets:
        raise GenrefineError(
            f"data.buckets must be empty but for text refiners; got {settings.data.buckets!r}; leave it out"
        )


def _class_data(settings: RefinerRun, source: ImageSource, tokenizer: VisualTokenizer, out: Path) -> Dataset[Any]:
    """Return codes or pixels, with class numbers."""
    if settings.codes == "pixels":
        return balanced(source, source, settings.data)
    turns = groups(source, settings.data, 2 if settings.flip else 1)  # a wrong column is found before encoding
    store = open_codes(out.with_name(out.name + "-codes"), source, tokenizer, settings.flip)
    return store if turns is None else Grouped(store, turns)


class InMemory(Dataset[Tensor]):
    """Decode every picture once and keep it as bytes; small sets train faster so."""

    def __init__(self, source: Dataset[Tensor]) -> None:
        count: int = len(source)  # type: ignore[arg-type]
        self.frames = torch.stack(
            [source[i].add(1).mul(127.5).round().to(torch.uint8) for i in tqdm(range(count), desc="reading")]
        )

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        """Return pixels in [-1, 1]."""
        return self.frames[index].float() / 127.5 - 1


def _tokenizer_data(settings: TokenizerRun, source: ImageSource, tokenizer: VisualTokenizer) -> Dataset[Tensor]:
    """Return pictures, or pictures and clips in batches of their own."""
    stills, clips, batch = _pixels(source, settings.data.size, 1), settings.clips, settings.training.batch_size
    if not clips.source:
        return balanced(stills, source, settings.data)
    tokenizer.grid(clips.num_frames, clips.size, clips.size)
    moving = open_clips(clips)
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
