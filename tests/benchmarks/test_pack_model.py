"""A packed model is a whole pipeline at half the size, with the defaults that were asked for."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from genrefine import ClassPipeline, GenrefineError, TextPipeline
from tiny_models import tiny_pipeline, tiny_text_pipeline, tiny_tokenizer


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "pack_model.py"
    spec = importlib.util.spec_from_file_location("pack_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


def test_packed_model_is_half_precision_with_new_defaults_and_keeps_its_readme(
    script: ModuleType, trained: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "packed"
    destination.mkdir()
    (destination / "README.md").write_text("recipe")
    size = script.pack(trained, destination, None, {"temperature": 0.7})
    assert size == sum(path.stat().st_size for path in destination.rglob("*") if path.is_file())
    assert (destination / "README.md").read_text() == "recipe"
    for part in ("refiner", "visual_tokenizer"):
        name = "diffusion_pytorch_model.safetensors"
        assert (destination / part / name).stat().st_size < 0.8 * (trained / part / name).stat().st_size
        assert "_name_or_path" not in json.loads((destination / part / "config.json").read_text())
    pipe = ClassPipeline.from_pretrained(destination)
    assert pipe.sampler.config["temperature"] == 0.7
    assert pipe.refiner.dtype == torch.float32


def test_a_packed_text_model_keeps_its_license_and_its_prompts(script: ModuleType, tmp_path: Path) -> None:
    pipeline = tiny_text_pipeline()
    pipeline.save_pretrained(tmp_path / "run")
    destination = tmp_path / "packed"
    destination.mkdir()
    (destination / "LICENSE.text_encoder.txt").write_text("free")
    (destination / "prompts.txt").write_text("a dog\n")
    script.pack(tmp_path / "run", destination, None, {"guidance_scale": 3.0})
    assert (destination / "LICENSE.text_encoder.txt").read_text() == "free"
    assert (destination / "prompts.txt").read_text() == "a dog\n"
    (tmp_path / "run" / "prompts.txt").write_text("a heart\n")
    script.pack(tmp_path / "run", destination, None, {})
    assert (destination / "prompts.txt").read_text() == "a heart\n"
    packed = TextPipeline.from_pretrained(destination)
    packed.set_progress_bar_config(disable=True)
    pipeline.to(torch.float16)
    torch.nn.Module.to(pipeline.text_encoder, torch.float16)
    for whole, half in zip(pipeline.refiner.parameters(), packed.refiner.parameters(), strict=True):
        assert torch.equal(whole.float(), half)
    assert packed("a dog", num_frames=3, seed=1).frames[0][2].size == (16, 16)


def test_another_tokenizer_is_taken_only_if_it_makes_the_same_codes(
    script: ModuleType, trained: Path, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "same")
    script.pack(trained, tmp_path / "packed", tmp_path / "same", {})
    with torch.no_grad():
        for weight in tokenizer.encoder.parameters():
            weight.neg_()
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(GenrefineError, match="same codes"):
        script.pack(trained, tmp_path / "packed", tmp_path / "other", {})


def test_a_folder_that_is_no_pipeline_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(GenrefineError, match="no pipeline folder"):
        script.pack(tmp_path, tmp_path / "packed", None, {})
