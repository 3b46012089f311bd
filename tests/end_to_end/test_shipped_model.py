"""The shipped model does what the README says of it."""

from pathlib import Path

import pytest
import torch
from einops import rearrange

from genrefine import ClassPipeline, zoo
from genrefine.data import ImageSource
from genrefine.evaluation.features import EfficientNetFeatures, collect_features
from genrefine.media.pixels import from_pil

EMOJI = Path(__file__).parents[2] / "datasets" / "emoji"


@pytest.fixture(scope="module")
def pipe() -> ClassPipeline:
    pipe = zoo.load("emoji-class")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def held_out(pipe: ClassPipeline) -> torch.Tensor:
    source = ImageSource(EMOJI, split="concept", keep={"skin_tone": ""}, class_names=pipe.class_names)
    return torch.stack([source[i][0] for i in range(0, len(source), 4)])


def mean_psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    mse = ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().flatten(1).mean(1)
    return float((-10 * mse.log10()).mean())


def test_shipped_folder_is_small() -> None:
    assert sum(f.stat().st_size for f in zoo.path("emoji-class").rglob("*") if f.is_file()) < 30e6


def test_held_out_pictures_survive_the_codes(pipe: ClassPipeline, held_out: torch.Tensor) -> None:
    tokenizer = pipe.visual_tokenizer
    assert mean_psnr(tokenizer.decode(tokenizer.encode(held_out)), held_out) > 27.5


@pytest.mark.parametrize(("tiles", "decibels", "levels"), [({}, 43, 1), ({"tile": 16, "overlap": 4}, 37, 2)])
def test_tiles_of_a_large_picture_stay_as_close_to_the_whole_as_promised(
    pipe: ClassPipeline, held_out: torch.Tensor, tiles: dict[str, int], decibels: float, levels: float
) -> None:
    sheet = rearrange(held_out[:36], "(r c) d 1 h w -> 1 d 1 (r h) (c w)", r=6)
    codes = pipe.visual_tokenizer.encode(sheet)
    whole = pipe.visual_tokenizer.decode(codes)
    pipe.enable_tiling(**tiles)
    tiled = pipe.decode(codes)
    pipe.disable_tiling()
    assert mean_psnr(tiled, whole) > decibels
    assert (tiled.clamp(-1, 1) - whole.clamp(-1, 1)).abs().mean() * 127.5 < levels


def test_seed_names_a_picture_alone_in_a_batch_and_with_its_own_budget(pipe: ClassPipeline) -> None:
    labels = ["flags/noto", "objects/fluent", "symbols/twemoji"]
    batch = pipe(labels, seed=[5, 6, 7], num_inference_steps=6)
    alone = pipe(labels[1], seed=6, num_inference_steps=6)
    assert torch.equal(alone.codes[0], batch.codes[1])
    assert alone.images[0].tobytes() == batch.images[1].tobytes()


def test_adaptive_steps_are_calibrated_and_save_evaluations(pipe: ClassPipeline) -> None:
    fixed = pipe(["flags/noto", "people-body/fluent"], seed=1)
    adaptive = pipe(["flags/noto", "people-body/fluent"], seed=1, adaptive=True)
    assert sum(adaptive.num_steps) < sum(fixed.num_steps)
    assert sum(adaptive.num_evaluations) < sum(fixed.num_evaluations)


def test_samples_of_a_class_look_like_their_group(pipe: ClassPipeline) -> None:
    extractor = EfficientNetFeatures()
    source = ImageSource(EMOJI, split="train", keep={"skin_tone": ""}, class_names=pipe.class_names)
    groups = [pipe.class_names[label].split("/")[0] for label in source.labels]
    chosen = [i for i, group in enumerate(groups) if group in ("flags", "smileys-emotion", "food-drink")][::3]
    train = collect_features(extractor, [torch.stack([source[i][0] for i in chosen])])
    labels = ["flags/noto", "smileys-emotion/noto", "food-drink/noto"] * 4
    images = pipe(labels, seed=0, num_inference_steps=12).images
    samples = collect_features(extractor, [torch.cat([from_pil(image) for image in images])])
    nearest = torch.cdist(samples.float(), train.float()).argmin(dim=1)
    right = [groups[chosen[i]] == label.split("/")[0] for i, label in zip(nearest.tolist(), labels, strict=True)]
    assert sum(right) >= 8
