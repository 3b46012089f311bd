"""Laws of `--adapter`."""

from pathlib import Path

import pytest
import torch

from genrefine import ClassPipeline
from genrefine.refiner.adapter import lora_config


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> str:
    """Write an adapter of the tiny model with two classes of its own, one of which the model knows."""
    refiner = ClassPipeline.from_pretrained(model).refiner
    refiner.choose_classes([None, 2])
    refiner.add_adapter(lora_config(refiner, rank=2))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for factor in refiner.adapter_weights().values():
            factor.normal_()
    refiner.save_lora_adapter(tmp_path / "mine", class_names=["boots", "flags/noto"])
    return "mine"


def test_an_adapter_brings_its_classes_and_its_pictures(genrefine, model, adapter):
    def draw(label: str, *words: str) -> bytes:
        answer = genrefine("generate", "--model", model, "--class-label", label, "--seed", "1", "-o", "a.png", *words)
        assert answer.code == 0, answer.err
        from PIL import Image

        return Image.open("a.png").tobytes()

    answer = genrefine("generate", "--model", model, "--list-classes", "--adapter", adapter)
    assert answer.out.split() == ["boots", "flags/noto"]
    assert draw("flags/noto", "--adapter", adapter) != draw("flags/noto")
    assert draw("flags/noto", "--adapter", adapter, "--adapter-scale", "0") == draw("flags/noto")
    assert draw("boots", "--adapter", adapter) != draw("flags/noto", "--adapter", adapter)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter-scale", "0.5"], "needs an adapter"),
        (["--adapter", "nowhere"], "'nowhere' is no adapter folder"),
        (["--adapter", "mine", "--class-label", "animals/noto"], "animals/noto"),
    ],
)
def test_wrong_adapters_end_in_one_line(genrefine, model, adapter, words, message):
    answer = genrefine("generate", "--model", model, "--class-label", "0", "-o", "a.png", *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
