"""Laws of model folders: what is saved comes back, what is damaged is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genrefine import ClassPipeline, GenrefineError, VisualTokenizer
from genrefine.pipelines import load_component
from hub_cache import put_into_hub_cache
from tiny_models import CLASS_NAMES, tiny_pipeline, tiny_refiner

REFINER = "refiner/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not None}))


def test_a_saved_pipeline_makes_the_same_pictures(pipe, saved):
    loaded = ClassPipeline.from_pretrained(saved)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.class_names == CLASS_NAMES
    assert loaded.sampler.settings(adaptive=True) == pipe.sampler.settings(adaptive=True)
    ours, theirs = pipe([0, 1], seed=1, adaptive=True), loaded([0, 1], seed=1, adaptive=True)
    assert torch.equal(ours.codes, theirs.codes)
    assert ours.images[1].tobytes() == theirs.images[1].tobytes()
    assert ours.settings == theirs.settings


def test_saving_a_loaded_pipeline_writes_the_same_files_and_no_path_of_this_machine(saved, tmp_path):
    ClassPipeline.from_pretrained(saved).save_pretrained(tmp_path / "again")
    names = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file())
    assert names == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for name in names:
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_dtype_and_replaced_parts_are_taken_as_given(saved):
    assert ClassPipeline.from_pretrained(saved, dtype=torch.bfloat16).dtype == torch.bfloat16
    other = tiny_refiner(seed=5)
    assert ClassPipeline.from_pretrained(saved, refiner=other).refiner is other
    assert ClassPipeline.from_pretrained(saved, class_names=list("abcdef")).class_names == list("abcdef")


def test_a_tokenizer_loads_alone_from_its_folder(saved, pipe):
    loaded = load_component(saved / "visual_tokenizer", VisualTokenizer)
    assert loaded.fingerprint() == pipe.visual_tokenizer.fingerprint()


def test_sharded_weights_come_back(tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "m", max_shard_size=20_000)
    assert len(list((tmp_path / "m" / "refiner").glob("*.safetensors"))) > 1
    loaded = ClassPipeline.from_pretrained(tmp_path / "m")
    assert all(torch.equal(a, b) for a, b in zip(loaded.refiner.parameters(), pipe.refiner.parameters(), strict=True))


def truncate(folder: Path) -> None:
    os.truncate(folder / REFINER, (folder / REFINER).stat().st_size - 100)


def truncate_without_checksums(folder: Path) -> None:
    truncate(folder)
    (folder / "checksums.json").unlink()


def flip_one_bit(folder: Path) -> None:
    content = bytearray((folder / REFINER).read_bytes())
    content[-5] ^= 1
    (folder / REFINER).write_bytes(content)


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / REFINER)
    weights.pop("head.linear.bias")
    save_file(weights, folder / REFINER)


def add_a_weight(folder: Path) -> None:
    save_file({**load_file(folder / REFINER), "extra": torch.zeros(1)}, folder / REFINER)


def empty_checksum(folder: Path) -> None:
    edit(folder / "checksums.json", **{REFINER: {}})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: (m / REFINER).unlink(), f"lacks its weight file .*{REFINER}"),
        (truncate, "truncated"),
        (truncate_without_checksums, "truncated or damaged"),
        (flip_one_bit, "altered"),
        (drop_a_weight, "lack 'head.linear.bias'"),
        (add_a_weight, "have the unexpected 'extra'"),
        (empty_checksum, "must record bytes and sha256"),
        (lambda m: (m / "refiner" / "config.json").unlink(), "lacks '.*refiner/config.json'"),
        (lambda m: (m / "refiner" / "config.json").write_text("{"), "not readable JSON"),
        (lambda m: (m / "refiner" / "config.json").write_text("[]"), "must hold a JSON object"),
        (lambda m: edit(m / "refiner/config.json", widht=3), "unknown key 'widht'; did you mean 'width'"),
        (lambda m: edit(m / "refiner/config.json", depth=3), "lack 'blocks.2"),
        (lambda m: edit(m / "refiner/config.json", num_classes=7), "class_embedding.weight' .* must have shape"),
        (lambda m: edit(m / "refiner/config.json", width=17), "width must be a multiple"),
        (lambda m: edit(m / "refiner/config.json", num_heads=False), "width must be a multiple"),
        (lambda m: edit(m / "visual_tokenizer/config.json", channel_multipliers=[0, 0]), "must be at least 1"),
        (lambda m: edit(m / "refiner/config.json", width=None), "lacks the key 'width'"),
        (lambda m: edit(m / "visual_tokenizer/config.json", strides=3), "unknown key 'strides'"),
        (lambda m: edit(m / "sampler/scheduler_config.json", temprature=3), "did you mean 'temperature'"),
        (lambda m: edit(m / "sampler/scheduler_config.json", temperature=-1.0), "temperature must be"),
        (lambda m: edit(m / "sampler/scheduler_config.json", entropy_steps={"slop": 1}), "settings are .*got slop"),
        (lambda m: edit(m / "model_index.json", classnames=[]), "did you mean 'class_names'"),
        (lambda m: edit(m / "model_index.json", class_names=["a"]), "6 different names"),
        (lambda m: edit(m / "model_index.json", refiner=["genrefine.nowhere", "Refiner"]), "not installed"),
        (lambda m: edit(m / "model_index.json", refiner=["os", "PathLike"]), "expected a class of genrefine"),
        (lambda m: edit(m / "model_index.json", refiner=3), "module and class of 'refiner'"),
        (lambda m: edit(m / "model_index.json", _class_name="FluxPipeline"), "holds a FluxPipeline"),
        (lambda m: (m / "model_index.json").unlink(), "not a pipeline folder"),
        (lambda m: shutil.rmtree(m / "sampler"), "lacks '.*sampler"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(GenrefineError, match=message) as error:
        ClassPipeline.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_checksums_is_loaded(folder):
    (folder / "checksums.json").unlink()
    assert ClassPipeline.from_pretrained(folder).class_names == CLASS_NAMES


def test_a_damaged_tokenizer_is_refused_when_loaded_alone(folder):
    path = folder / "visual_tokenizer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(GenrefineError, match="altered"):
        load_component(folder / "visual_tokenizer", VisualTokenizer)


@pytest.mark.parametrize("option", ["custom_pipeline", "trust_remote_code", "dytpe"])
def test_unknown_loading_arguments_are_refused(saved, option):
    with pytest.raises(TypeError, match=f"no argument '{option}'"):
        ClassPipeline.from_pretrained(saved, **{option: True})


def test_pickles_cannot_be_asked_for_and_unwritable_places_are_refused(pipe, tmp_path):
    with pytest.raises(GenrefineError, match="safetensors only; got safe_serialization=False"):
        pipe.save_pretrained(tmp_path / "m", safe_serialization=False)
    with pytest.raises(GenrefineError, match="safetensors only; got use_safetensors=False"):
        ClassPipeline.from_pretrained(tmp_path / "m", use_safetensors=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(GenrefineError, match="cannot write"):
        pipe.save_pretrained(tmp_path / "file" / "m")


@pytest.mark.parametrize("name", ["missing", "./missing/model", "a/b/c", "/missing/model"])
def test_a_missing_folder_is_refused_without_asking_the_hub(name):
    with pytest.raises(GenrefineError, match="no model folder at"):
        ClassPipeline.from_pretrained(name)


def test_a_repository_of_the_hub_loads_through_its_cache(saved, tmp_path):
    put_into_hub_cache(saved, tmp_path)
    loaded = ClassPipeline.from_pretrained("org/name", cache_dir=tmp_path, local_files_only=True)
    assert loaded.class_names == CLASS_NAMES


def test_a_damaged_repository_and_an_absent_one_are_refused(folder, tmp_path):
    flip_one_bit(folder)
    put_into_hub_cache(folder, tmp_path / "cache")
    with pytest.raises(GenrefineError, match="altered"):
        ClassPipeline.from_pretrained("org/name", cache_dir=tmp_path / "cache", local_files_only=True)
    with pytest.raises(GenrefineError, match="neither here nor on the hub"):
        ClassPipeline.from_pretrained("org/other", cache_dir=tmp_path / "cache", local_files_only=True)
