"""The shipped text model does what the README says of it: prompts, clips and first frames, from files of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from genrefine import TextPipeline, zoo
from genrefine.cli.options import TEXT_MODEL
from genrefine.data import ImageSource
from genrefine.media.pixels import from_pil, to_pil

EMOJI = Path(__file__).parents[2] / "datasets" / "emoji"


@pytest.fixture(scope="module")
def pipe() -> TextPipeline:
    pipe = zoo.load(TEXT_MODEL)
    assert isinstance(pipe, TextPipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(pipe: TextPipeline) -> Path:
    return zoo.path(TEXT_MODEL)


def generate(*words: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run `genrefine generate` in a process that may not ask the hub."""
    return subprocess.run(
        [sys.executable, "-m", "genrefine.cli", "generate", *words],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "nothing")},
    )


def test_all_of_it_is_small_and_the_text_encoder_is_inside(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 100e6
    assert (folder / "text_encoder" / "model.safetensors").is_file()
    assert (folder / "tokenizer" / "tokenizer.json").is_file()
    assert list(folder.rglob("LICENSE*"))
    recorded = json.loads((folder / "checksums.json").read_text())
    assert {"text_encoder/model.safetensors", "tokenizer/tokenizer.json"} <= recorded.keys()


def test_it_knows_prompts_to_be_calibrated_on(folder: Path) -> None:
    prompts = (folder / "prompts.txt").read_text().splitlines()
    assert len(set(prompts)) == len(prompts) >= 100


def test_a_prompt_gives_a_picture_without_any_flag_and_without_a_network(pipe: TextPipeline, tmp_path: Path) -> None:
    done = generate("a red heart", place=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = tmp_path.glob("a-red-heart-seed*.png")
    with Image.open(file) as picture:
        assert picture.size == (64, 64)
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 20


def test_seventeen_frames_give_a_moving_picture(pipe: TextPipeline, tmp_path: Path) -> None:
    words = ("a red heart", "--frames", "17", "--seed", "1", "--num-inference-steps", "4", "-o", "heart.webp")
    done = generate(*words, place=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "heart.webp") as film:
        frames = [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(film)]
        assert film.size == (64, 64)
    assert len(frames) == 17
    assert len(set(frames)) > 1


def test_a_seed_names_a_picture_alone_and_in_any_batch(pipe: TextPipeline) -> None:
    prompts = ["a red heart", "noto emoji of pizza", "flag of Japan"]
    batch = pipe(prompts, seed=[5, 6, 7], num_inference_steps=6)
    alone = pipe(prompts[1], seed=6, num_inference_steps=6)
    assert torch.equal(alone.codes[0], batch.codes[1])
    assert alone.images[0].tobytes() == batch.images[1].tobytes()


def test_a_given_first_frame_is_frame_0(pipe: TextPipeline) -> None:
    source = ImageSource(EMOJI, split="concept", keep={"style": "fluent", "skin_tone": ""})
    picture = source.picture(0)
    output = pipe("a smiling face", first_frame=picture, num_frames=17, seed=3, num_inference_steps=2)
    kept = pipe.decode(pipe.visual_tokenizer.encode(from_pil(picture)))
    # A still and the first frame of a clip are decoded by convolutions of other sizes, which round differently.
    difference = np.asarray(output.frames[0][0], np.int16) - np.asarray(to_pil(kept)[0], np.int16)
    assert np.abs(difference).max() <= 1
    assert len(output.frames[0]) == 17


def test_adaptive_steps_are_calibrated_and_save_evaluations(pipe: TextPipeline) -> None:
    prompts = ["flag of Japan", "noto emoji of red heart"]
    fixed, adaptive = (pipe(prompts, seed=1, **how) for how in ({}, {"adaptive": True}))
    assert sum(adaptive.num_evaluations) < sum(fixed.num_evaluations)


def test_the_prompt_decides_the_color(pipe: TextPipeline) -> None:
    # The coarsest thing a prompt can say: pictures of red things are redder than pictures of blue things.
    red, blue = (
        pipe(
            f"noto emoji of {color} heart", num_images_per_prompt=4, seed=0, num_inference_steps=12, output_type="pt"
        ).images
        for color in ("red", "blue")
    )
    redness = [float((images[:, 0] - images[:, 2]).mean()) for images in (red, blue)]
    assert redness[0] > redness[1] + 0.1
