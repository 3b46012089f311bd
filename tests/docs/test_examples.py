"""The scripts in `examples/` do what they say."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.docs.documents import CHECKOUT

from genrefine import ClassPipeline
from genrefine.media.writing import read_png_metadata

EXAMPLES = sorted((CHECKOUT / "examples").glob("*.py"))


@pytest.fixture
def example(place: Path) -> Callable[..., Any]:
    """Return a function that runs `examples/NAME.py ARGUMENTS` in a furnished folder."""

    def run(name: str, *arguments: object) -> Any:
        return runpy.run_path(str(CHECKOUT / "examples" / f"{name}.py"))["main"]([str(a) for a in arguments])

    return run


def test_film_shows_fixed_and_adaptive_steps_side_by_side(example, capsys: pytest.CaptureFixture[str]) -> None:
    example("refinement_film", "--class-label", "flags/noto", "--seed", 7, "-o", "film.gif")
    printed = capsys.readouterr().out
    assert "fixed: 6 steps, 12 network evaluations" in printed
    assert "adaptive: " in printed
    with Image.open("film.gif") as film:
        assert film.n_frames == 6
    example("refinement_film", "--model", "runs/class/pipeline", "--seed", 7, "-o", "film.webp")
    assert Path("film.webp").is_file()


def test_training_on_a_folder_ends_with_a_calibrated_model_and_its_pictures(example) -> None:
    steps = ["--tokenizer-steps", 2, "--refiner-steps", 2]
    small = ["refiner.width=16", "refiner.depth=1", "sampler.num_inference_steps=12"]
    example("train_on_folder", "photos", "--out", "mine", *steps, "--set", *small)
    assert read_png_metadata("mine/samples.png")["settings"]["adaptive"] is True
    loaded = ClassPipeline.from_pretrained("mine/class/pipeline")
    assert loaded.class_names == ["cats", "dogs"]
    assert loaded.sampler.is_calibrated


def test_an_exact_network_shows_what_the_kernels_do(example) -> None:
    errors = example("own_network", "--steps", 5, 60, "--side", 48, "--samples", 2)
    assert errors["exact", 60] < 0.02 < errors["exact", 5]
    assert errors["exact", 60] < errors["refresh", 60]  # the published kernel keeps a bias on this distribution


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_names_its_command(path: Path) -> None:
    assert f"python examples/{path.name}" in path.read_text(encoding="utf-8")


def test_every_example_is_tested_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in EXAMPLES if f'example("{path.stem}"' not in source] == []
