"""Laws of `genrefine describe`."""

import json
import os
import shutil

import pytest

from reading import read_json
from tiny_models import CLASS_NAMES, tiny_refiner, tiny_text_encoder, tiny_tokenizer


def test_a_pipeline_is_described_in_full(genrefine, model):
    answer = genrefine("describe", model, "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    did = read_json("did.json")
    assert did["kind"] == "class pipeline"
    assert did["classes"]["names"] == CLASS_NAMES
    assert did["refiner"]["parameters"] == sum(p.numel() for p in tiny_refiner().parameters())
    assert did["visual_tokenizer"]["parameters"] == sum(p.numel() for p in tiny_tokenizer().parameters())
    assert did["visual_tokenizer"]["codes"] == "4 channels of 2 classes (bit layout)"
    # 4 x 4 positions of 4 bits on 16 x 16 pixels.
    assert (did["picture"]["bits"], did["picture"]["bits_per_pixel"]) == (64, 0.25)
    assert did["sampler"]["num_inference_steps"] == 4
    assert did["sampler"]["adaptive"] == "3 to 8 steps, decided after 2"
    for words in ("bits: 64", "num_inference_steps: 4", "flags/noto", f"parameters: {did['refiner']['parameters']:,}"):
        assert words in answer.out


def test_a_text_pipeline_is_described_with_its_encoder_and_its_clips(genrefine, text_model, still_model):
    answer = genrefine("describe", text_model, "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    did = read_json("did.json")
    encoder, tokenizer = tiny_text_encoder()
    assert did["kind"] == "text pipeline"
    assert did["text_encoder"]["parameters"] == sum(weight.numel() for weight in encoder.parameters())
    assert did["text_encoder"]["vocabulary"] == len(tokenizer)
    assert did["clips"] == {"num_frames": "1 + 2k", "frames_per_second": 12.0, "first_frames": "taken"}
    assert did["refiner"]["attention"] == "joint"
    for words in (
        "text pipeline",
        "network: BertModel",
        "longest_prompt: 512 tokens",
        "strides: 4 in space, 2 in time",
    ):
        assert words in answer.out
    assert "clips: none, stills only" in genrefine("describe", still_model).out
    assert genrefine("describe", text_model / "refiner").out.startswith(f"{text_model / 'refiner'}: text refiner\n")


@pytest.mark.parametrize(
    ("part", "kind", "fact"),
    [
        ("visual_tokenizer", "visual tokenizer", "strides: 4 in space, 1 in time"),
        ("refiner", "class refiner", "depth: 2"),
    ],
)
def test_a_network_folder_is_described_alone(genrefine, model, part, kind, fact):
    answer = genrefine("describe", model / part)
    assert answer.out.startswith(f"{model / part}: {kind}\n")
    assert fact in answer.out


def break_weights(folder):
    path = folder / "refiner" / "diffusion_pytorch_model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def add_key(folder):
    path = folder / "refiner" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": 1}))


@pytest.mark.parametrize(
    ("damage", "place", "message"),
    [
        (break_weights, "m", "truncated"),
        (lambda m: (m / "refiner" / "diffusion_pytorch_model.safetensors").unlink(), "m", "lacks its weight file"),
        (add_key, "m", "unknown key 'colour'"),
        (add_key, "m/refiner", "unknown key 'colour'"),
        (lambda m: (m / "refiner" / "config.json").write_text("x"), "m/refiner", "not readable JSON"),
        (lambda m: (m / "refiner" / "config.json").write_text("{}"), "m/refiner", "holds a None"),
        (lambda m: None, "m/sampler", "no model and no adapter"),
        (lambda m: None, "nowhere", "no model at 'nowhere'"),
    ],
)
def test_damaged_folders_end_in_one_line_and_code_2(genrefine, model, tmp_path, damage, place, message):
    shutil.copytree(model, tmp_path / "m")
    damage(tmp_path / "m")
    answer = genrefine("describe", place)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
