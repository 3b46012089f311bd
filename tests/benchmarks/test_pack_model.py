"""A packed model is a whole pipeline at half the size, with the defaults that were asked for."""

import importlib.util
import json
import zlib
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


def test_rounded_rows_are_few_multiples_of_a_power_of_two(script: ModuleType) -> None:
    layer = torch.nn.Linear(40, 6)
    with torch.no_grad():
        layer.weight[0] = 0
        layer.weight[1] *= 1e-2
    before = layer.weight.clone()
    script.round_rows(layer, lambda name: 6)
    for row, was in zip(layer.weight, before, strict=True):
        step = 2.0 ** torch.ceil(torch.log2(was.abs().max().clamp_min(1e-7) / 31))
        assert torch.equal((row / step).round(), row / step)
        assert (row / step).abs().max() <= 31
        assert (row - was).abs().max() <= step / 2
    once = layer.weight.clone()
    script.round_rows(layer, lambda name: 6)
    assert torch.equal(layer.weight, once)
    assert torch.equal(layer.weight.half().float(), once)  # half precision holds them as they are


def test_a_rounded_text_model_is_smaller_when_packed(script: ModuleType, tmp_path: Path) -> None:
    pipeline = tiny_text_pipeline()
    pipeline.save_pretrained(tmp_path / "run")
    sizes = []
    for name, is_rounded in (("plain", False), ("rounded", True)):
        script.pack(tmp_path / "run", tmp_path / name, None, {}, is_rounded=is_rounded)
        weights = [tmp_path / name / part for part in ("refiner", "text_encoder")]
        stored = b"".join(path.read_bytes() for folder in weights for path in sorted(folder.glob("*.safetensors")))
        sizes.append(len(zlib.compress(stored, 9)))
    assert sizes[1] < 0.9 * sizes[0]
    assert TextPipeline.from_pretrained(tmp_path / "rounded").prompt_encoder.channels


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
