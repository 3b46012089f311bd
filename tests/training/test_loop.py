"""The training loop on tiny real networks: it learns, resumes exactly, and refuses a folder that is not its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

from genrefine import GenrefineError
from genrefine.corruption import LogitNormalSignal
from genrefine.training.averages import load_averages
from genrefine.training.checkpoint import claim
from genrefine.training.discriminator import PatchDiscriminator
from genrefine.training.loop import Update, train
from genrefine.training.order import EndlessBatches, step_seed
from genrefine.training.refiner_task import ClassRefinerTask, element_losses
from genrefine.training.settings import TrainingSettings
from genrefine.training.tokenizer_task import TokenizerTask
from tiny_models import tiny_refiner, tiny_tokenizer

SETTINGS = TrainingSettings(
    num_steps=6, batch_size=4, learning_rate=1e-3, warmup_steps=2, ema_decay=0.5, mixed_precision="no",
    log_every=2, preview_every=3, save_every=3,
)  # fmt: skip


class Pictures(torch.utils.data.Dataset[torch.Tensor]):
    """Two-colored pictures, all different."""

    def __init__(self, count: int = 10) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.rand(count, 3, 1, 1, 1, generator=generator).expand(-1, -1, -1, 16, 16) * 2 - 1
        self.pixels = torch.cat([self.pixels[..., :8], -self.pixels[..., 8:]], dim=-1)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.pixels[index]


class Codes(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Six maps, one a class."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.codes = torch.randint(0, 2, (6, 4, 1, 4, 4), generator=generator, dtype=torch.int32)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.codes[index], index


def tokenizer_task(**changes: object) -> TokenizerTask:
    pictures = Pictures()
    options = {"perceptual_weight": 0.0, "adversarial_weight": 0.0, "rounds": (1, 2)}
    return TokenizerTask(tiny_tokenizer(), pictures, pictures.pixels[:3], **{**options, **changes})


def refiner_task(**changes: object) -> ClassRefinerTask:
    options = {"signal_law": LogitNormalSignal(-0.8, 0.8)}
    return ClassRefinerTask(tiny_refiner(), Codes(), **{**options, **changes})


def adversarial_task() -> TokenizerTask:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tokenizer_task(adversarial_weight=0.3, discriminator=PatchDiscriminator(8, 1))


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("make", "name"),
    [(adversarial_task, "tokenizer"), (refiner_task, "refiner")],
    ids=["tokenizer", "refiner"],
)
def test_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    make: object, name: str, optimizer: str, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, optimizer=optimizer)
    assert train(make(), settings, tmp_path / "whole") == 6
    assert train(make(), replace(settings, num_steps=3), tmp_path / "parts") == 3
    first = weights(tmp_path / "parts", name)
    assert train(make(), settings, tmp_path / "parts") == 6
    whole, parts = weights(tmp_path / "whole", name), weights(tmp_path / "parts", name)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert any(not torch.equal(first[k], parts[k]) for k in first)


def test_gradient_accumulation_counts_updates_not_micro_batches(tmp_path: Path) -> None:
    settings = replace(SETTINGS, gradient_accumulation=2, num_steps=2)
    assert train(refiner_task(), settings, tmp_path) == 2
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2]


def test_accumulated_micro_batches_give_the_update_of_one_batch(tmp_path: Path) -> None:
    # Without draws of its own a task has one loss per item, so the mean over parts is the mean over the whole.
    start = tokenizer_task().networks["tokenizer"].state_dict()
    moves = []
    for parts in (1, 2, 4):
        settings = replace(SETTINGS, gradient_accumulation=parts, num_steps=1, warmup_steps=0)
        train(tokenizer_task(flip=False, rounds=(2,)), settings, tmp_path / str(parts))
        moved = weights(tmp_path / str(parts), "tokenizer")
        moves.append(torch.cat([(moved[name] - start[name]).flatten() for name in start]))
    assert moves[0].abs().mean() > 1e-4
    for other in moves[1:]:
        # AdamW's first step is the sign of a gradient: where that is nothing but rounding, it may turn.
        assert ((moves[0] - other).abs() > 1e-6).float().mean() < 0.01


def test_refiner_learns_six_pictures_by_heart(tmp_path: Path) -> None:
    settings = replace(SETTINGS, num_steps=120, learning_rate=1e-2, log_every=20, preview_every=1000, save_every=1000)
    train(refiner_task(label_dropout=0.0), settings, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]


def test_tokenizer_learns_two_colors_and_previews_them(tmp_path: Path) -> None:
    settings = replace(SETTINGS, num_steps=120, learning_rate=5e-3, log_every=20, preview_every=60, save_every=1000)
    train(tokenizer_task(), settings, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["psnr"] > lines[0]["psnr"] + 2
    assert {p.name for p in (tmp_path / "previews").iterdir()} == {"step-0000060.png", "step-0000120.png"}


def test_frozen_encoder_keeps_every_code(tmp_path: Path) -> None:
    task = tokenizer_task(train_encoder=False)
    before = tiny_tokenizer()
    train(task, SETTINGS, tmp_path)
    after = task.networks["tokenizer"]
    assert after.fingerprint() == before.fingerprint()
    assert not torch.equal(after.decoder.conv_in.weight, before.decoder.conv_in.weight)


def test_scalars_tell_loss_and_accuracy_by_signal(tmp_path: Path) -> None:
    train(refiner_task(), replace(SETTINGS, num_steps=20, log_every=20), tmp_path)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss", "accuracy", "loss_decile_2", "accuracy_decile_2", "items_per_second"} <= last.keys()
    assert 0 <= last["accuracy"] <= 1


def test_two_class_loss_is_the_cross_entropy() -> None:
    logits = torch.randn(2, 3, 1, 2, 2, 2)
    codes = torch.randint(0, 2, (2, 3, 1, 2, 2), dtype=torch.int32)
    expected = -logits.log_softmax(-1).gather(-1, codes.long()[..., None])[..., 0]
    torch.testing.assert_close(element_losses(logits, codes), expected)
    three = torch.randn(2, 3, 1, 2, 2, 3)
    expected = -three.log_softmax(-1).gather(-1, codes.long()[..., None])[..., 0]
    torch.testing.assert_close(element_losses(three, codes), expected)


def test_every_epoch_visits_every_item_once_and_processes_share() -> None:
    def take(start: int, rank: int = 0, processes: int = 1) -> list[list[int]]:
        batches = iter(EndlessBatches(10, 4, seed=3, start=start, rank=rank, num_processes=processes))
        return [next(batches) for _ in range(5)]

    flat = [i for batch in take(0) for i in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert take(2)[:3] == take(0)[2:]
    assert [sorted(a + b) for a, b in zip(take(0, 0, 2), take(0, 1, 2), strict=True)] == [sorted(b) for b in take(0)]


def test_seeds_of_neighboring_steps_differ() -> None:
    seeds = {step_seed(s, i, p) for s in range(20) for i in range(50) for p in range(3)}
    assert len(seeds) == 3000
    assert all(0 <= s < 2**63 for s in seeds)


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    claim(tmp_path / "run", {"width": 3, "training": {"num_steps": 5, "seed": 1}})
    claim(tmp_path / "run", {"width": 3, "training": {"num_steps": 9, "seed": 1}})
    with pytest.raises(GenrefineError, match=r"other settings \(training.seed, width\)"):
        claim(tmp_path / "run", {"width": 4, "training": {"num_steps": 5, "seed": 2}})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(GenrefineError, match=r"no run\.json"):
        claim(tmp_path / "other", {})
    (tmp_path / "file").write_text("x")
    with pytest.raises(GenrefineError, match="cannot write"):
        claim(tmp_path / "file", {})


def test_a_run_goes_on_with_other_sampling_defaults(tmp_path: Path) -> None:
    """They are saved beside the weights and change nothing about them; so a run older than one of them goes on too."""
    claim(tmp_path, {"sampler": {"temperature": 1.0}, "training": {"seed": 1}})
    claim(tmp_path, {"sampler": {"temperature": 0.5, "final_latents": "expected"}, "training": {"seed": 1}})
    with pytest.raises(GenrefineError, match=r"other settings \(training.sampler\)"):
        claim(tmp_path, {"training": {"seed": 1, "sampler": "of another kind"}})


def test_a_run_older_than_a_setting_goes_on_while_the_setting_is_empty(tmp_path: Path) -> None:
    claim(tmp_path, {"data": {"source": "a"}})
    with pytest.raises(GenrefineError, match=r"other settings \(data.buckets\)"):
        claim(tmp_path, {"data": {"source": "a", "buckets": "1,2"}})
    claim(tmp_path, {"data": {"source": "a", "buckets": ""}})
    with pytest.raises(GenrefineError, match=r"other settings \(data.source\)"):
        claim(tmp_path, {"data": {"buckets": ""}})


def test_a_damaged_state_is_named_and_the_one_before_it_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(refiner_task(), SETTINGS, tmp_path / "whole")
    train(refiner_task(), replace(SETTINGS, num_steps=5, save_every=2), tmp_path / "run")
    _, newest = sorted((tmp_path / "run" / "checkpoints").iterdir())
    state = newest / "optimizer.bin"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    assert train(refiner_task(), SETTINGS, tmp_path / "run") == 6
    assert f"{newest} is damaged (optimizer.bin)" in capsys.readouterr().out
    one, other = weights(tmp_path / "whole", "refiner"), weights(tmp_path / "run", "refiner")
    assert all(torch.equal(one[name], other[name]) for name in one)
    for state in (tmp_path / "run" / "checkpoints").iterdir():
        (state / "model.safetensors").write_bytes(b"")
    with pytest.raises(GenrefineError, match=r"all training states .* are damaged"):
        train(refiner_task(), replace(SETTINGS, num_steps=9), tmp_path / "run")


class _Code:
    """A pickle that makes a file when it is read unrestricted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_states_of_version_0_1_0_continue_and_their_pickles_run_nothing(tmp_path: Path) -> None:
    train(refiner_task(), SETTINGS, tmp_path / "whole")
    train(refiner_task(), replace(SETTINGS, num_steps=3), tmp_path / "run")
    state = next((tmp_path / "run" / "checkpoints").iterdir())
    (state / "hashes.json").unlink()
    ema = EMAModel(list(tiny_refiner().parameters()))
    load_averages(ema, state)
    (state / "averages.safetensors").unlink()
    torch.save(ema.state_dict(), state / "custom_checkpoint_0.pkl")  # what accelerate wrote for that version
    assert train(refiner_task(), SETTINGS, tmp_path / "run") == 6
    one, other = weights(tmp_path / "whole", "refiner"), weights(tmp_path / "run", "refiner")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(tmp_path.rglob("custom_checkpoint*"))

    for newest in (tmp_path / "run" / "checkpoints").iterdir():
        (newest / "hashes.json").unlink(missing_ok=True)
        torch.save({"shadow_params": _Code(tmp_path / "ran")}, newest / "custom_checkpoint_0.pkl")
    with pytest.raises(GenrefineError, match="cannot load the training state"):
        train(refiner_task(), replace(SETTINGS, num_steps=9), tmp_path / "run")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [{"num_steps": 0}, {"batch_size": 5, "gradient_accumulation": 2}, {"ema_decay": 1.0}, {"learning_rate": 0.0}],
)
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(GenrefineError, match="training"):
        replace(SETTINGS, **changes)


class _Poisoned(ClassRefinerTask):
    """A loss that becomes ``value`` in one update."""

    value, at, made = float("nan"), 4, 0

    def updates(self, networks, batch, generator):
        for update in super().updates(networks, batch, generator):
            self.made += 1
            yield Update("refiner", update.loss * self.value if self.made == self.at else update.loss, update.scalars)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(tmp_path: Path, value):
    task = _Poisoned(tiny_refiner(), Codes(), LogitNormalSignal(-0.8, 0.8))
    task.value = value
    with pytest.raises(GenrefineError, match=r"got (nan|inf) in update 4 of item \d, item \d, .*step-0000003"):
        train(task, SETTINGS, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000003"]
    assert all(weight.isfinite().all() for weight in weights(tmp_path, "refiner").values())
    assert train(refiner_task(), SETTINGS, tmp_path) == 6  # goes on from the last good state


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    class Broken(ClassRefinerTask):
        def updates(self, networks, batch, generator):
            yield from super().updates(networks, batch, generator)
            with torch.no_grad():
                next(self.networks["refiner"].parameters()).view(-1)[0] = float("nan")

    task = Broken(tiny_refiner(), Codes(), LogitNormalSignal(-0.8, 0.8))
    with pytest.raises(GenrefineError, match=r"weights must be numbers.*after update 1, which was not saved"):
        train(task, replace(SETTINGS, save_every=1), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "refiner").exists()
