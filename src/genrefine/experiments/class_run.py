"""Carry out the training of a class-conditional refiner: data, networks and task from its settings, then the loop."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from genrefine.corruption import LogitNormalSignal
from genrefine.data import ImageSource
from genrefine.experiments.settings import RefinerRun
from genrefine.experiments.sources import (
    balanced,
    describe,
    finish,
    groups,
    keep_data,
    load_tokenizer,
    open_codes,
    open_source,
    require_squares,
    start_refiner,
)
from genrefine.media.sheets import image_grid
from genrefine.pipelines import ClassPipeline
from genrefine.refiner import ClassRefiner
from genrefine.sampling.component import RefinementSampler
from genrefine.tokenizer import VisualTokenizer
from genrefine.training.loop import train
from genrefine.training.order import Grouped
from genrefine.training.refiner_task import ClassRefinerTask


def train_class_refiner(settings: RefinerRun, out: Path, name: str) -> Path:
    """Train what the settings describe, or continue it, and return the folder of the pipeline or adapter."""
    require_squares(settings)
    tokenizer = load_tokenizer(settings.tokenizer, settings.rounds)
    source = open_source(settings.data)
    keep_data(out, [source])
    _, height, width = tokenizer.grid(1, settings.data.size, settings.data.size)
    torch.manual_seed(settings.training.seed)
    refiner = ClassRefiner(
        code_channels=tokenizer.code_channels,
        code_classes=tokenizer.code_classes,
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


def _class_data(settings: RefinerRun, source: ImageSource, tokenizer: VisualTokenizer, out: Path) -> Dataset[Any]:
    """Return codes or pixels, with class numbers."""
    if settings.codes == "pixels":
        return balanced(source, source, settings.data)
    turns = groups(source, settings.data, 2 if settings.flip else 1)  # a wrong column is found before encoding
    store = open_codes(out.with_name(out.name + "-codes"), source, tokenizer, settings.flip)
    return store if turns is None else Grouped(store, turns)
