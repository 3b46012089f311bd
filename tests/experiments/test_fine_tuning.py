"""Fine-tuning through the settings of a run: adapters, whole networks, other classes, decoders alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from genrefine import ClassPipeline, GenrefineError, TextPipeline, VisualTokenizer, presets
from tiny_models import tiny_clip_tokenizer, tiny_pipeline, tiny_text_pipeline

SHORT = {
    "data.size": "16",
    "training.num_steps": "2",
    "training.batch_size": "4",
    "training.warmup_steps": "1",
    "training.learning_rate": "1e-2",
    "training.optimizer": "adamw",
    "training.compile": "false",
    "training.mixed_precision": "no",
    "training.save_every": "1",
    "sampler.num_inference_steps": "2",
}
# The sizes of `tiny_models`.
CLASS = {
    "refiner.width": "16",
    "refiner.depth": "2",
    "refiner.num_heads": "2",
    "refiner.bottleneck": "8",
    "refiner.in_context_tokens": "2",
    "refiner.in_context_start": "1",
}
TEXT = {"refiner.width": "24", "refiner.depth": "2", "refiner.num_heads": "2", "refiner.mlp_width": "32"}
LORA = {"lora.rank": "2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained pipelines, and captioned pictures of three classes, one of which the class pipeline knows."""
    folder = tmp_path_factory.mktemp("place")
    draws = np.random.default_rng(0)
    lines = []
    for name in ("cats", "dogs", "flags/noto"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(3):
            picture = Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            picture.save(folder / "photos" / name / f"{number}.png")
            lines.append({"file_name": f"{name}/{number}.png", "text": "a dog" if name == "dogs" else "a red flag"})
    (folder / "captioned").mkdir()
    for number, line in enumerate(lines):
        picture = Image.open(folder / "photos" / line["file_name"])
        picture.save(folder / "captioned" / f"{number}.png")
        line["file_name"] = f"{number}.png"
    (folder / "captioned" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tiny_pipeline().save_pretrained(folder / "class")
    tiny_text_pipeline(tokenizer=tiny_clip_tokenizer()).save_pretrained(
        folder / "text", text_encoder_dtype=torch.float32
    )
    return folder


def class_settings(place: Path, **changes: str) -> dict[str, str]:
    model = str(place / "class")
    given = {"data.source": str(place / "photos"), "tokenizer": model, "refiner.start": model, "flip": "false"}
    return {**SHORT, **CLASS, **given, **changes}


def text_settings(place: Path, **changes: str) -> dict[str, str]:
    model = place / "text"
    parts = {"tokenizer": str(model), "refiner.start": str(model)}
    (place / "encoder").mkdir(exist_ok=True)
    pipe = TextPipeline.from_pretrained(model)
    pipe.text_encoder.save_pretrained(place / "encoder")
    pipe.tokenizer.save_pretrained(place / "encoder")
    data = {
        "data.source": str(place / "captioned"),
        "data.caption_column": "text",
        "text_encoder": str(place / "encoder"),
    }
    return {**SHORT, **TEXT, **parts, **data, **changes}


def pictures(pipe: Any, *arguments: Any) -> list[bytes]:
    pipe.set_progress_bar_config(disable=True)
    return [image.tobytes() for image in pipe(*arguments, seed=3, num_inference_steps=2).images]


def test_an_adapter_of_a_class_model_is_trained_kept_small_and_loaded(place: Path, tmp_path: Path) -> None:
    folder = presets.get("small-class", class_settings(place, **LORA)).run(tmp_path / "run")
    assert folder == tmp_path / "run" / "adapter"
    assert not (tmp_path / "run" / "pipeline").exists()
    state = tmp_path / "run" / "checkpoints" / "step-0000002"
    names = set(load_file(state / "adapter-0.safetensors"))
    assert names
    assert all("lora_" in name for name in names)
    assert not (state / "model.safetensors").exists()
    base = (place / "class" / "refiner" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert max(file.stat().st_size for file in (*state.iterdir(), *folder.iterdir())) < base

    pipe = ClassPipeline.from_pretrained(place / "class")
    names_before, before, anything = pipe.class_names, pictures(pipe, "flags/noto"), pictures(pipe, None)
    adapter = pipe.load_lora_weights(folder)
    assert pipe.class_names == adapter.facts.class_names == ["cats", "dogs", "flags/noto"]
    assert adapter.facts.class_rows == [None, None, 2]
    beside = pictures(pipe, "cats")
    pipe.set_adapters("default", 0.0)
    assert pictures(pipe, "cats") == anything
    assert pictures(pipe, "flags/noto") == before
    with pytest.raises(GenrefineError, match="save_lora_adapter"):
        pipe.save_pretrained(tmp_path / "no")
    pipe.unload_lora_weights()
    assert pipe.class_names == names_before
    assert pictures(pipe, "flags/noto") == before

    pipe.load_lora_weights(folder)
    assert pictures(pipe, "cats") == beside
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert pipe.class_names == ["cats", "dogs", "flags/noto"]
    pipe.save_pretrained(tmp_path / "merged")
    assert pictures(ClassPipeline.from_pretrained(tmp_path / "merged"), "cats") == pictures(pipe, "cats")


def test_an_adapter_of_a_text_model_is_trained_and_loaded(place: Path, tmp_path: Path) -> None:
    folder = presets.get("small-text", text_settings(place, **LORA, **{"lora.parts": "attention"})).run(
        tmp_path / "run"
    )
    pipe = TextPipeline.from_pretrained(place / "text")
    before = pictures(pipe, "a dog")
    adapter = pipe.load_lora_weights(folder, scale=50.0)
    assert all(".attention." in layer for layer in adapter.layers)
    assert pictures(pipe, "a dog") != before
    pipe.set_adapters("default", 0.0)
    assert pictures(pipe, "a dog") == before
    pipe.unload_lora_weights()
    assert pictures(pipe, "a dog") == before


@pytest.mark.parametrize(("preset", "settings_of"), [("small-class", class_settings), ("small-text", text_settings)])
def test_a_resumed_adapter_is_that_of_an_uninterrupted_run(
    preset: str, settings_of: Any, place: Path, tmp_path: Path
) -> None:
    settings = settings_of(place, **LORA)
    whole = presets.get(preset, settings).run(tmp_path / "whole")
    presets.get(preset, {**settings, "training.num_steps": "1"}).run(tmp_path / "parts")
    first = load_file(tmp_path / "parts" / "adapter" / "adapter_model.safetensors")
    parts = presets.get(preset, settings).run(tmp_path / "parts")
    expected = load_file(whole / "adapter_model.safetensors")
    found = load_file(parts / "adapter_model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(not torch.equal(first[name], found[name]) for name in expected)


def test_a_run_whose_base_changed_does_not_continue(place: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny_pipeline().save_pretrained(model)
    settings = class_settings(place, **LORA, **{"refiner.start": str(model), "training.num_steps": "1"})
    presets.get("small-class", settings).run(tmp_path / "run")
    changed = tiny_pipeline()
    with torch.no_grad():
        changed.refiner.head.linear.bias.add_(1)
    changed.save_pretrained(model)
    with pytest.raises(GenrefineError, match=r"other settings \(base\)"):
        presets.get("small-class", settings).run(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora.rank": "2", "refiner.start": ""}, "trained weights"),
        ({"lora.rank": "2", "refiner.width": "32", "refiner.depth": "3"}, "refiner.width=16 refiner.depth=2"),
        ({"lora.rank": "-1"}, "at least 0"),
        ({"lora.rank": "2", "lora.scale": "0"}, r"lora.scale must not be 0"),
        ({"lora.scale": "2"}, r"set lora\.rank"),
        ({"lora.parts": "attention"}, r"set lora\.rank"),
        ({"lora.rank": "2", "refiner.start": "nowhere"}, "folder of a trained refiner"),
    ],
)
def test_adapters_that_cannot_be_are_refused(
    changes: dict[str, str], message: str, place: Path, tmp_path: Path
) -> None:
    with pytest.raises(GenrefineError, match=message) as caught:
        presets.get("small-class", class_settings(place, **changes)).run(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_whole_network_keeps_classes_by_name_and_starts_new_ones_as_no_class(place: Path, tmp_path: Path) -> None:
    still = {"training.learning_rate": "1e-12", "training.num_steps": "1"}
    folder = presets.get("small-class", class_settings(place, **still)).run(tmp_path / "run")
    table = ClassPipeline.from_pretrained(folder).refiner.class_embedding.weight
    theirs = ClassPipeline.from_pretrained(place / "class").refiner.class_embedding.weight
    # cats, dogs, flags/noto and no class; theirs are six classes and no class, flags/noto the third.
    torch.testing.assert_close(table, theirs[[6, 6, 2, 6]], rtol=0, atol=1e-6)


def test_a_whole_network_learns_another_number_of_classes(place: Path, tmp_path: Path) -> None:
    settings = class_settings(
        place, **{"training.num_steps": "40", "training.ema_decay": "0.5", "training.log_every": "10"}
    )
    folder = presets.get("small-class", {**settings, "training.save_every": "40"}).run(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    pipe = ClassPipeline.from_pretrained(folder)
    assert pipe.class_names == ["cats", "dogs", "flags/noto"]
    assert pictures(pipe, "cats")


def test_a_decoder_is_trained_alone_and_codes_stay(place: Path, tmp_path: Path) -> None:
    model = place / "class"
    before = VisualTokenizer.from_pretrained(model, subfolder="visual_tokenizer")
    sizes = {key: value for key, value in before.config.items() if not key.startswith("_")}
    sizes = {key: sizes[key] for key in ("latent_dim", "rounds", "encoder_width", "decoder_width", "num_blocks")}
    settings = {f"tokenizer.{key}": str(value) for key, value in sizes.items()}
    settings |= {"tokenizer.channel_multipliers": "1,1", "tokenizer.temporal_downsample": "False"}
    settings |= {"tokenizer.temporal_kernel": str(before.config["temporal_kernel"]), "tokenizer.start": str(model)}
    settings |= {"loss.train_encoder": "false", "loss.rounds": "2", "data.source": str(place / "photos")}
    short = {key: value for key, value in SHORT.items() if not key.startswith("sampler")}
    folder = presets.get("small-tokenizer", {**short, **settings}).run(tmp_path / "run")
    after = VisualTokenizer.from_pretrained(folder)
    assert after.fingerprint() == before.fingerprint()
    theirs = before.decoder.state_dict()
    assert any(not torch.equal(value, theirs[name]) for name, value in after.decoder.state_dict().items())
