"""Stock diffusers opens our folders, and we open them without running what lies in them."""

import json
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from tests.hub_cache import put_into_hub_cache
from tests.tiny_models import tiny_pipeline, tiny_text_pipeline

import genrefine
from genrefine import ClassPipeline, GenrefineError, TextPipeline

FOLDERS = Path(__file__).parents[1] / "goldens/folders"
KINDS = {
    "class": (tiny_pipeline, ClassPipeline, "flags/noto"),
    "text": (tiny_text_pipeline, TextPipeline, "a red heart"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_stock_diffusers_opens_a_bare_folder_that_it_is_told_to_trust(kind, tmp_path: Path) -> None:
    make, our_class, what = KINDS[kind]
    pipe = make()
    pipe.save_pretrained(tmp_path / "model")
    opened = DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert type(opened) is our_class
    expected = pipe(what, seed=3, num_inference_steps=2).images[0]
    assert opened(what, seed=3, num_inference_steps=2).images[0].tobytes() == expected.tobytes()
    # What it saves again is whole, too.
    opened.save_pretrained(tmp_path / "again")
    assert type(genrefine.load(tmp_path / "again")) is our_class


@pytest.mark.parametrize("kind", KINDS)
def test_stock_diffusers_opens_a_folder_of_version_0_1_0_that_it_is_given_our_code_for(kind, tmp_path: Path) -> None:
    make, our_class, what = KINDS[kind]
    pipe = make()
    pipe.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model/model_index.json").read_text())
    old = json.loads((FOLDERS / f"{kind}_0.1.0.json").read_text())
    index |= {name: old[name] for name in ("_class_name", "refiner", "visual_tokenizer", "sampler")}
    (tmp_path / "model/model_index.json").write_text(json.dumps(index))
    sampler = (FOLDERS / f"{kind}_sampler_0.1.0.json").read_text()
    (tmp_path / "model/sampler/scheduler_config.json").write_text(sampler)
    code = (tmp_path / "model/pipeline.py").rename(tmp_path / f"{kind}_pipeline.py")
    opened = DiffusionPipeline.from_pretrained(tmp_path / "model", custom_pipeline=str(code), trust_remote_code=True)
    assert type(opened) is our_class
    for again in (genrefine.load(tmp_path / "model"), our_class.from_pretrained(tmp_path / "model")):
        expected = again(what, seed=3, num_inference_steps=2).images[0].tobytes()
        assert opened(what, seed=3, num_inference_steps=2).images[0].tobytes() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_stock_diffusers_opens_a_snapshot_in_the_cache_of_the_hub(kind, tmp_path: Path) -> None:
    make, our_class, _ = KINDS[kind]
    make().save_pretrained(tmp_path / "model")
    put_into_hub_cache(tmp_path / "model", tmp_path / "cache")
    where = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    opened = DiffusionPipeline.from_pretrained("org/name", trust_remote_code=True, **where)
    assert type(opened) is our_class
    assert type(genrefine.load("org/name", **where)) is our_class


def test_without_trust_stock_diffusers_says_what_to_do(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(tmp_path / "model")


def test_we_never_run_the_code_of_a_folder(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    code = tmp_path / "model/pipeline.py"
    assert "pip install genrefine" in code.read_text()
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    genrefine.load(tmp_path / "model")
    ClassPipeline.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_a_folder_cannot_name_modules_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "model/model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "refiner": ["stranger", "ClassRefiner"]}))
    for load in (genrefine.load, ClassPipeline.from_pretrained):
        with pytest.raises(GenrefineError, match=r"names stranger.ClassRefiner; expected a class of genrefine"):
            load(tmp_path / "model")
    assert not (tmp_path / "ran").exists()
