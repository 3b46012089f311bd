"""Presets carried out on tiny real data, and settings from text."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrefine import ClassPipeline, ClassRefiner, GenrefineError, VisualTokenizer, presets
from genrefine.data import ImageSource
from genrefine.experiments.overrides import override, parse
from genrefine.experiments.sources import open_codes, open_source
from tiny_models import tiny_tokenizer

TINY_TOKENIZER = {
    "tokenizer.encoder_width": "4",
    "tokenizer.decoder_width": "4",
    "tokenizer.latent_dim": "2",
    "tokenizer.rounds": "2",
    "loss.rounds": "(1,2)",
}
SHORT = {
    "data.size": "32",
    "training.num_steps": "3",
    "training.batch_size": "4",
    "training.compile": "false",
    "training.mixed_precision": "no",
    "training.log_every": "1",
}
TINY_REFINER = {"refiner.width": "16", "refiner.depth": "2", "refiner.num_heads": "2", "refiner.bottleneck": "8"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of flat pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, color in (("day", 230), ("night", 25)):
        (folder / name).mkdir()
        for i in range(4):
            Image.fromarray(np.full((40, 36, 3), color + i, dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tokenizer_folder(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tokenizer"
    data = {"data.source": str(pictures)}
    return presets.get("small-tokenizer", {**SHORT, **TINY_TOKENIZER, **data}).run(out)


def refiner_settings(pictures: Path, tokenizer_folder: Path) -> dict[str, str]:
    return {
        **SHORT,
        **TINY_REFINER,
        "data.source": str(pictures),
        "tokenizer": str(tokenizer_folder),
        "sampler.num_inference_steps": "2",
    }


def test_own_pictures_become_a_pipeline(pictures: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    settings = refiner_settings(pictures, tokenizer_folder)
    folder = presets.get("small-class", settings).run(tmp_path / "refiner")
    pipe = ClassPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.class_names == ["day", "night"]
    assert pipe("night", seed=1).images[0].size == (32, 32)
    assert json.loads((tmp_path / "refiner" / "run.json").read_text())["preset"] == "small-class"
    more = {**settings, "training.num_steps": "4"}
    presets.get("small-class", more).run(tmp_path / "refiner")  # continues, and finds its code store
    assert (tmp_path / "refiner" / "checkpoints" / "step-0000004").is_dir()


def test_codes_from_store_and_from_pixels_train_the_same_weights(
    pictures: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    settings = {**refiner_settings(pictures, tokenizer_folder), "flip": "false"}
    weights = []
    for codes in ("store", "pixels"):
        folder = presets.get("small-class", {**settings, "codes": codes}).run(tmp_path / codes)
        weights.append(ClassPipeline.from_pretrained(folder).refiner.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_code_store_of_another_tokenizer_is_refused(pictures: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    presets.get("small-class", refiner_settings(pictures, tokenizer_folder)).run(tmp_path / "refiner")
    other = VisualTokenizer.from_pretrained(tokenizer_folder)
    with torch.no_grad():
        other.encoder.conv_in.weight.mul_(-1)
    other.save_pretrained(tmp_path / "other")
    settings = refiner_settings(pictures, tmp_path / "other")
    with pytest.raises(GenrefineError, match="made by tokenizer"):
        presets.get("small-class", settings).run(tmp_path / "refiner")


def test_warm_start_takes_what_fits_and_names_what_is_new(
    tokenizer_folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"data.source": str(pictures)}
    settings = {
        **SHORT,
        **TINY_TOKENIZER,
        **data,
        "tokenizer.latent_dim": "3",
        "tokenizer.start": str(tokenizer_folder),
    }
    folder = presets.get("small-tokenizer", {**settings, "training.num_steps": "1"}).run(tmp_path / "wider")
    assert VisualTokenizer.from_pretrained(folder).latent_dim == 3
    printed = capsys.readouterr()
    assert "encoder.conv_out.weight" in printed.out + printed.err
    assert "encoder.conv_in.weight" not in printed.out + printed.err


def test_refiner_starts_from_another_and_learns_from_there(
    tokenizer_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    settings = {**SHORT, **TINY_REFINER, "data.source": str(pictures), "tokenizer": str(tokenizer_folder)}
    first = presets.get("small-class", settings).run(tmp_path / "first") / "refiner"
    still = {**settings, "refiner.start": str(first), "training.learning_rate": "1e-12", "training.warmup_steps": "0"}
    second = presets.get("small-class", still).run(tmp_path / "second") / "refiner"
    theirs = ClassRefiner.from_pretrained(first).state_dict()
    for name, value in ClassRefiner.from_pretrained(second).state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("other_latents", [False, True])
def test_refiner_keeps_nested_rounds_and_not_other_latents(
    other_latents: bool, tokenizer_folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SHORT, **TINY_REFINER, "data.source": str(pictures), "training.num_steps": "1"}
    first = presets.get("small-class", {**settings, "tokenizer": str(tokenizer_folder)}).run(tmp_path / "first")
    changed = {"tokenizer": str(tokenizer_folder), "rounds": "3"}
    if other_latents:
        wider = {**SHORT, **TINY_TOKENIZER, "data.source": str(pictures), "tokenizer.latent_dim": "3"}
        changed = {"tokenizer": str(presets.get("small-tokenizer", wider).run(tmp_path / "tokenizer"))}
    still = {"refiner.start": str(first), "training.learning_rate": "1e-12", "training.warmup_steps": "0"}
    capsys.readouterr()
    second = presets.get("small-class", {**settings, **changed, **still}).run(tmp_path / "second")
    printed = "".join(capsys.readouterr())
    head = ClassRefiner.from_pretrained(second / "refiner").head.linear.weight
    known = ClassRefiner.from_pretrained(first / "refiner").head.linear.weight.unflatten(0, (2, 4))
    assert head.shape[0] == 2 * 6
    if other_latents:  # their channels are other codes
        assert "new weights: code_embedding.compress.weight, head.linear.weight, head.linear.bias" in printed
    else:
        assert "codes of 3 rounds start from those of 2" in printed
        assert VisualTokenizer.from_pretrained(second / "visual_tokenizer").hbq.rounds == 3
        torch.testing.assert_close(head.unflatten(0, (2, 6))[:, :4], known, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rounds", ["-1", "17"])
def test_impossible_rounds_are_refused(rounds: str, tokenizer_folder: Path, pictures: Path, tmp_path: Path) -> None:
    settings = {**SHORT, **TINY_REFINER, "data.source": str(pictures), "tokenizer": str(tokenizer_folder)}
    with pytest.raises(GenrefineError, match="rounds must be at least 0 and at most 16"):
        presets.get("small-class", {**settings, "rounds": rounds}).run(tmp_path / "run")


def test_motion_without_clips_is_refused(pictures: Path, tmp_path: Path) -> None:
    settings = {**SHORT, **TINY_TOKENIZER, "data.source": str(pictures), "loss.motion": "1"}
    with pytest.raises(GenrefineError, match=r"loss\.motion weighs the motion of clips"):
        presets.get("small-tokenizer", settings).run(tmp_path / "run")


def test_start_without_a_fitting_weight_is_refused(tokenizer_folder: Path, pictures: Path, tmp_path: Path) -> None:
    settings = {**SHORT, **TINY_REFINER, "data.source": str(pictures), "tokenizer": str(tokenizer_folder)}
    with pytest.raises(GenrefineError, match=r"refiner\.start must be the folder of a trained refiner"):
        presets.get("small-class", {**settings, "refiner.start": str(tmp_path / "no")}).run(tmp_path / "run")


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_says_its_command_and_builds(name: str) -> None:
    assert "genrefine train" in (presets.PRESETS[name].__doc__ or "")
    assert presets.get(name).settings.training.num_steps > 0


def test_published_refiner_has_the_published_number_of_weights() -> None:
    refiner = presets.get("class-refiner").settings.refiner
    with torch.device("meta"):
        network = ClassRefiner(
            code_channels=16, code_classes=16, grid=(16, 16), num_classes=1000, **refiner.arguments()
        )
    assert sum(p.numel() for p in network.parameters()) == 130_664_448


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("training.lerning_rate", "1", "did you mean learning_rate"),
        ("training.num_steps", "many", "training.num_steps must be int; got 'many'"),
        ("training.num_steps", "0", "at least 1"),
        ("training", "3", "group of settings"),
        ("training.seed.x", "3", "has no parts"),
        ("training.optimizer", "sgd", "one of adamw, muon"),
        ("training.compile", "yes", "true or false"),
        ("training.betas", "0.9", "2 values"),
        ("data.only", "skin", "column=value"),
    ],
)
def test_wrong_settings_are_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(GenrefineError, match=message):
        open_source(presets.get("emoji-tokenizer", {name: value}).settings.data)


def test_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(GenrefineError, match="did you mean emoji-tokenizer"):
        presets.get("emoji-tokeniser")


def test_text_is_parsed_by_annotation() -> None:
    assert parse("1,2", tuple[int, ...], "x") == (1, 2)
    assert parse("(0.1, 0.2)", tuple[float, float], "x") == (0.1, 0.2)
    assert parse("none", str | None, "x") is None
    changed = override(presets.get("emoji-class").settings, {"training.learning_rate": "3e-4", "flip": "true"})
    assert (changed.training.learning_rate, changed.flip) == (3e-4, True)


def test_missing_tokenizer_and_source_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GenrefineError, match="folder of a trained tokenizer"):
        presets.get("small-class").run(tmp_path / "a")
    with pytest.raises(GenrefineError, match=r"data\.source"):
        presets.get("image-tokenizer").run(tmp_path / "b")


def test_interrupted_run_is_saved_and_continues(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    from genrefine.training.tokenizer_task import TokenizerTask

    updates = TokenizerTask.updates

    def interrupted(self: TokenizerTask, *arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return updates(self, *arguments)

    settings = {**SHORT, **TINY_TOKENIZER, "data.source": str(pictures)}
    with monkeypatch.context() as patch:
        patch.setattr(TokenizerTask, "updates", interrupted)
        with pytest.raises(KeyboardInterrupt):
            presets.get("small-tokenizer", settings).run(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-0000001"]
    presets.get("small-tokenizer", settings).run(tmp_path)
    assert (tmp_path / "checkpoints" / "step-0000003").is_dir()


def test_a_code_store_of_as_many_other_pictures_is_refused(pictures: Path, tmp_path: Path) -> None:
    tokenizer, folder = tiny_tokenizer(), tmp_path / "run-codes"
    source = ImageSource(pictures, size=16)
    assert len(open_codes(folder, source, tokenizer, flip=True)) == 16
    assert len(open_codes(folder, source, tokenizer, flip=True)) == 16
    shutil.copytree(pictures, tmp_path / "others")
    (tmp_path / "others" / "day" / "0.png").rename(tmp_path / "others" / "day" / "9.png")
    with pytest.raises(GenrefineError, match="made of other pictures"):
        open_codes(folder, ImageSource(tmp_path / "others", size=16), tokenizer, flip=True)


@pytest.mark.parametrize("codes", ["store", "pixels"])
def test_a_run_does_not_go_on_with_changed_pictures_and_loses_nothing(
    codes: str, pictures: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "pictures")
    settings = {**refiner_settings(tmp_path / "pictures", tokenizer_folder), "codes": codes}
    settings |= {"training.num_steps": "2"} | ({} if codes == "store" else {"training.num_workers": "0"})
    out = tmp_path / "run"
    presets.get("small-class", settings).run(out)
    before = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    (tmp_path / "pictures/day").rename(tmp_path / "pictures/dusk")
    message = r"changed since: pictures 4 added \(dusk/0.png, .*, 4 missing \(day/0.png, .*begin another one"
    with pytest.raises(GenrefineError, match=message):
        presets.get("small-class", settings).run(out)
    (tmp_path / "pictures/dusk").rename(tmp_path / "pictures/day")
    Image.new("RGB", (16, 16), "lime").save(tmp_path / "pictures/day/0.png")
    with pytest.raises(GenrefineError, match=r"pictures 1 replaced \(day/0.png\)"):
        presets.get("small-class", settings).run(out)
    shutil.rmtree(out)  # what was derived is left, and noticed
    if codes == "store":
        with pytest.raises(GenrefineError, match=r"run-codes' was made of other pictures .*1 replaced \(day/0.png\)"):
            presets.get("small-class", settings).run(out)
        return
    presets.get("small-class", settings).run(out)
    assert {path.name for path in before} == {path.name for path in out.rglob("*.safetensors")}
