"""Laws of `--adapter`."""

from pathlib import Path

import pytest
import torch

from genrefine import ClassPipeline, GenrefineError
from genrefine.pipelines.request import UnknownArgumentError
from genrefine.refiner.adapter import lora_config
from genrefine.refiner.adapter_folder import read_adapter
from hub_cache import put_into_hub_cache
from reading import read_json


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


def test_an_adapter_is_described(genrefine, model, adapter):
    answer = genrefine("describe", adapter, "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    did = read_json("did.json")
    assert (did["kind"], did["of"], did["rank"], did["scale"]) == ("adapter (LoRA)", "ClassRefiner", 2, 1.0)
    assert did["classes"] == {"count": 2, "names": ["boots", "flags/noto"]}
    assert did["parameters"] == read_adapter(adapter).num_parameters
    assert "blocks.0.attention.query_key_value" in did["layers"]
    Path(adapter, "adapter_model.safetensors").write_bytes(b"no")
    answer = genrefine("describe", adapter)
    assert (answer.code, answer.out) == (2, "")
    assert "truncated or damaged" in answer.err


def test_an_adapter_of_the_hub_loads_through_its_cache(model, adapter, tmp_path):
    put_into_hub_cache(tmp_path / adapter, tmp_path / "cache")
    pipe = ClassPipeline.from_pretrained(model)
    with pytest.raises(UnknownArgumentError, match="did you mean 'revision'"):
        pipe.load_lora_weights("org/name", revison="main")
    with pytest.raises(GenrefineError, match="no adapter at 'org/other', neither here nor on the hub"):
        pipe.load_lora_weights("org/other", cache_dir=tmp_path / "cache", local_files_only=True)
    loaded = pipe.load_lora_weights("org/name", cache_dir=tmp_path / "cache", local_files_only=True)
    assert pipe.class_names == loaded.facts.class_names == ["boots", "flags/noto"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter-scale", "0.5"], "needs an adapter"),
        (["--adapter", "nowhere"], "no adapter folder at 'nowhere'"),
        (["--adapter", "mine", "--class-label", "animals/noto"], "animals/noto"),
    ],
)
def test_wrong_adapters_end_in_one_line(genrefine, model, adapter, words, message):
    answer = genrefine("generate", "--model", model, "--class-label", "0", "-o", "a.png", *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
