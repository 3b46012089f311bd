"""One rule finds a model, whoever asks: Python, the command line, the settings of a run."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from tests.tiny_models import tiny_text_pipeline

import genrefine
from genrefine import ClassPipeline, GenrefineError, RefinementSampler, TextPipeline, zoo
from genrefine.cli.loading import find_model as find_for_command_line
from genrefine.experiments.sources import load_tokenizer
from genrefine.model_folder import find
from genrefine.registry import ADDRESS, with_current_addresses
from genrefine.sampling.budgets import EntropySteps, FixedSteps
from genrefine.sampling.guidance import Guidance
from genrefine.sampling.kernels import RefreshKernel
from genrefine.sampling.schedules import LinearSchedule
from genrefine.sampling.settings import ScheduledSignal

FOLDERS = Path(__file__).parents[1] / "goldens/folders"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of shipped models with one model in it, "tiny"."""
    folder = tmp_path_factory.mktemp("zoo")
    tiny_text_pipeline().save_pretrained(folder / "tiny")
    return folder


def test_a_name_means_the_same_everywhere(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "SHIPPED", shipped)
    assert find.shipped_models() == zoo.names() == ["tiny"]
    for name in ("tiny", str(shipped / "tiny")):
        assert find.find_model(name) == find_for_command_line(name) == shipped / "tiny"
        assert isinstance(genrefine.load(name), TextPipeline)
        assert (
            load_tokenizer(name).fingerprint() == load_tokenizer(str(shipped / "tiny/visual_tokenizer")).fingerprint()
        )


@pytest.mark.parametrize("name", ["tinny", "./tiny", "a/b/c"])
def test_what_is_no_model_is_one_line_that_names_those_that_ship(name, shipped: Path, monkeypatch) -> None:
    monkeypatch.setattr(find, "SHIPPED", shipped)
    for ask in (find.find_model, genrefine.load, find_for_command_line, load_tokenizer):
        with pytest.raises(GenrefineError, match=r"\(tiny\)") as caught:
            ask(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["class", "text"])
def test_addresses_of_version_0_1_0_become_those_of_today(kind: str) -> None:
    index = json.loads((FOLDERS / f"{kind}_0.1.0.json").read_text())
    ours = {"refiner", "visual_tokenizer", "sampler"}
    today = with_current_addresses(index)
    assert {today[name][0] for name in ours} == {ADDRESS}
    assert {name: today[name] for name in today.keys() - ours} == {name: index[name] for name in index.keys() - ours}


@pytest.mark.parametrize("kind", ["class", "text"])
def test_a_sampler_of_version_0_1_0_samples_as_it_did(kind: str) -> None:
    saved = json.loads((FOLDERS / f"{kind}_sampler_0.1.0.json").read_text())
    old = RefinementSampler.from_config(saved)
    budget = {part.name: saved["entropy_steps"][part.name] for part in fields(EntropySteps)}
    assert old.settings(adaptive=True).steps == EntropySteps(**budget)
    assert old.settings().steps == FixedSteps(saved["num_inference_steps"])
    for settings in (old.settings(), old.settings(adaptive=True)):
        assert settings.guidance == Guidance(saved["guidance_scale"], (0.0, 1.0))
        assert settings.temperature == saved["temperature"]
        assert (settings.schedule, settings.kernel) == (LinearSchedule(), RefreshKernel())
        assert settings.signal == ScheduledSignal()


def test_a_folder_of_version_0_1_0_opens_and_is_saved_in_the_form_of_today(tmp_path: Path) -> None:
    pipe = tiny_text_pipeline()
    pipe.save_pretrained(tmp_path / "old")
    index = json.loads((tmp_path / "old/model_index.json").read_text())
    assert {index[name][0] for name in ("refiner", "visual_tokenizer", "sampler")} == {ADDRESS}
    written = json.loads((FOLDERS / "text_0.1.0.json").read_text())
    index |= {name: written[name] for name in ("refiner", "visual_tokenizer", "sampler")}
    (tmp_path / "old/model_index.json").write_text(json.dumps(index))
    sampler = json.loads((FOLDERS / "text_sampler_0.1.0.json").read_text())
    (tmp_path / "old/sampler/scheduler_config.json").write_text(json.dumps(sampler))
    pipe.sampler = RefinementSampler.from_config(sampler)
    for opened in (genrefine.load(tmp_path / "old"), TextPipeline.from_pretrained(tmp_path / "old")):
        assert (
            opened("x", seed=1, num_inference_steps=2).images[0].tobytes()
            == pipe("x", seed=1, num_inference_steps=2).images[0].tobytes()
        )
    opened.save_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new/model_index.json").read_text())["refiner"] == [ADDRESS, "TextRefiner"]
    with pytest.raises(GenrefineError, match="holds a TextPipeline; expected a ClassPipeline"):
        ClassPipeline.from_pretrained(tmp_path / "old")
