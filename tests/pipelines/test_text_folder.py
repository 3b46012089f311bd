"""Laws of text model folders: text encoder and tokenizer come back with the rest, and what is damaged is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genrefine import GenrefineError, TextPipeline, VisualTokenizer
from genrefine.pipelines import load_component
from tiny_models import tiny_text_encoder, tiny_text_pipeline

ENCODER = "text_encoder/model.safetensors"


@pytest.fixture
def folder(saved_text: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    shutil.copytree(saved_text, tmp_path / "model")
    return tmp_path / "model"


def load(folder, **options):
    pipe = TextPipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not None}))


@pytest.mark.parametrize("kind", ["bert", "umt5"])
def test_saving_a_loaded_pipeline_writes_the_same_files_and_no_path_of_this_machine(tmp_path, kind):
    first, second = tmp_path / "first", tmp_path / "second"
    tiny_text_pipeline(kind).save_pretrained(first)
    load(first).save_pretrained(second)
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert str(tmp_path).encode() not in (second / name).read_bytes()


def test_sharded_weights_come_back(tmp_path, saved_text):
    whole = load(saved_text)
    whole.save_pretrained(tmp_path / "m", max_shard_size=6_000)
    assert len(list((tmp_path / "m" / "text_encoder").glob("*.safetensors"))) > 1
    assert torch.equal(load(tmp_path / "m")("dog", seed=1).codes, whole("dog", seed=1).codes)


def test_the_text_encoder_is_half_as_large_on_disk_and_whole_in_memory(saved_text, text_pipe):
    stored = load_file(saved_text / ENCODER)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert text_pipe.text_encoder.dtype == torch.float32
    loaded = load(saved_text)
    assert loaded.text_encoder.dtype == torch.float32
    assert all(torch.equal(stored[name].float(), tensor) for name, tensor in loaded.text_encoder.state_dict().items())
    assert load(saved_text, dtype=torch.bfloat16).text_encoder.dtype == torch.bfloat16


def test_the_text_encoder_can_be_kept_in_full(tmp_path, text_pipe):
    text_pipe.save_pretrained(tmp_path / "m", text_encoder_dtype=torch.float32)
    assert torch.equal(load(tmp_path / "m")("dog", seed=3).codes, text_pipe("dog", seed=3).codes)


def test_sizes_and_frame_rate_come_back_and_can_be_replaced(tmp_path, saved_text):
    loaded = load(saved_text)
    assert loaded.picture_size == (16, 16)
    assert loaded.frames_per_second == 12.0
    other = load(saved_text, height=24, frames_per_second=8.0, max_tokens=9)
    assert other.picture_size == (24, 16)
    assert other.frames_per_second == 8.0
    assert other.prompt_encoder.max_tokens == 9
    encoder, tokenizer = tiny_text_encoder(seed=3)
    replaced = load(saved_text, text_encoder=encoder, tokenizer=tokenizer)
    assert replaced.text_encoder is encoder
    assert replaced.tokenizer is tokenizer


def test_the_visual_tokenizer_loads_alone(saved_text, text_pipe):
    loaded = load_component(saved_text / "visual_tokenizer", VisualTokenizer)
    assert loaded.fingerprint() == text_pipe.visual_tokenizer.fingerprint()


def truncate(folder: Path) -> None:
    os.truncate(folder / ENCODER, (folder / ENCODER).stat().st_size - 100)


def truncate_without_checksums(folder: Path) -> None:
    truncate(folder)
    (folder / "checksums.json").unlink()


def flip_one_bit(folder: Path) -> None:
    content = bytearray((folder / ENCODER).read_bytes())
    content[-5] ^= 1
    (folder / ENCODER).write_bytes(content)


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / ENCODER)
    weights.pop("encoder.layer.1.output.dense.bias")
    save_file(weights, folder / ENCODER, {"format": "pt"})


def widen_the_encoder(folder: Path) -> None:
    encoder, _ = tiny_text_encoder()
    wide = type(encoder)(type(encoder.config)(**{**encoder.config.to_dict(), "hidden_size": 28}))
    wide.save_pretrained(folder / "text_encoder")
    (folder / "checksums.json").unlink()


def alter_the_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace("heart", "heard"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: (m / ENCODER).unlink(), f"lacks its weight file .*{ENCODER}"),
        (truncate, "truncated"),
        (truncate_without_checksums, "truncated or damaged"),
        (flip_one_bit, "altered"),
        (drop_a_weight, "lack 'encoder.layer.1.output.dense.bias'"),
        (widen_the_encoder, "the refiner reads 24 channels, the encoder gives 28"),
        (lambda m: (m / "text_encoder/config.json").unlink(), "lacks '.*text_encoder/config.json'"),
        (lambda m: (m / "text_encoder/config.json").write_text("{"), "not readable JSON"),
        (lambda m: edit(m / "text_encoder/config.json", hidden_size=28), "must have shape"),
        (lambda m: edit(m / "model_index.json", sampler=None), "must name module and class of 'sampler'"),
        (lambda m: edit(m / "model_index.json", refiner=[None, None]), "must name module and class of 'refiner'"),
        (lambda m: edit(m / "text_encoder/config.json", num_attention_heads=5), "does not describe a BertModel"),
        (lambda m: edit(m / "text_encoder/config.json", num_hidden_layers=3), "lack 'encoder.layer.2"),
        (lambda m: edit(m / "text_encoder/config.json", num_hidden_layers=10**30), "at most 39 as 'num_hidden_layers'"),
        (lambda m: edit(m / "text_encoder/config.json", vocab_size=10**30), "at most 1,048,576 as 'vocab_size'"),
        (lambda m: (m / "tokenizer/tokenizer.json").unlink(), "lacks the vocabulary '.*tokenizer.json'"),
        (lambda m: (m / "tokenizer/tokenizer_config.json").unlink(), "lacks '.*tokenizer_config.json'"),
        (lambda m: (m / "tokenizer/tokenizer.json").write_text("{"), "not readable JSON"),
        (alter_the_vocabulary, "tokenizer.json' is altered"),
        (lambda m: shutil.rmtree(m / "text_encoder"), "lacks '.*text_encoder"),
        (lambda m: edit(m / "model_index.json", heigth=3), "did you mean 'height'"),
        (lambda m: edit(m / "model_index.json", height=15), "height must be a multiple of 4"),
        (lambda m: edit(m / "model_index.json", text_encoder=["transformers", "NoModel"]), "not installed"),
        (lambda m: edit(m / "model_index.json", text_encoder=["torch.nn", "Linear"]), "expected a class of genrefine"),
        (lambda m: edit(m / "model_index.json", _class_name="ClassPipeline"), "holds a ClassPipeline"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(GenrefineError, match=message) as error:
        TextPipeline.from_pretrained(folder)
    assert "\n" not in str(error.value)
