"""Runs that are killed, interrupted or out of room lose nothing, and what they log is whole."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_loop import SETTINGS, refiner_task, tokenizer_task, weights
from torch._utils import ExceptionWrapper

from genrefine import GenrefineError, VisualTokenizer
from genrefine.training import checkpoint
from genrefine.training.loop import _no_batch, train
from genrefine.training.order import EndlessBatches

PROGRAM = """
import os, signal, sys
sys.path[:0] = {path!r}
from dataclasses import replace
from itertools import islice
from pathlib import Path
import torch
from torch._utils import ExceptionWrapper
from test_loop import SETTINGS, train, tokenizer_task
torch.set_num_threads({threads})  # the last bits of sums depend on it
move = os.replace
def move_or_die(source, place):
    if Path(place).name == {place!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    move(source, place)
os.replace = move_or_die
train(tokenizer_task(), replace(SETTINGS, num_steps={steps}), Path({out!r}))
"""


def program(out: Path, place: str = "", steps: int = 6) -> subprocess.Popen[bytes]:
    content = PROGRAM.format(path=sys.path, place=place, out=str(out), steps=steps, threads=torch.get_num_threads())
    # A background shell job ignores SIGINT, and its children with it.
    return subprocess.Popen(
        [sys.executable, "-c", content],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Return the weights of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train(tokenizer_task(), SETTINGS, folder)
    return weights(folder, "tokenizer")


@pytest.mark.parametrize(
    ("place", "left"),
    [
        ("step-0000006", ["step-0000003"]),  # the second checkpoint is written, but not in its place
        ("diffusion_pytorch_model.safetensors", []),  # the first result is
    ],
)
def test_a_run_killed_while_it_saves_continues_to_the_same_weights(
    place: str, left: list[str], whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert program(tmp_path / "run", place).wait(600) == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "run").glob("checkpoints/step-*")] == left
    assert train(tokenizer_task(), SETTINGS, tmp_path / "run") == 6
    continued = weights(tmp_path / "run", "tokenizer")
    assert all(torch.equal(continued[name], whole[name]) for name in whole)
    assert VisualTokenizer.from_pretrained(tmp_path / "run" / "tokenizer").spatial_stride == 4
    assert not list((tmp_path / "run").rglob(".writing*"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]


def test_an_interrupt_saves_after_the_update_and_the_run_continues(tmp_path: Path) -> None:
    running = program(tmp_path / "run", steps=100_000)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not metrics.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(GenrefineError, match="another process is training"):
        train(tokenizer_task(), replace(SETTINGS, num_steps=100_000), tmp_path / "run")
    running.send_signal(signal.SIGINT)
    assert running.wait(600) == 0
    (*_, newest) = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    done = int(newest.name.removeprefix("step-"))
    assert train(tokenizer_task(), replace(SETTINGS, num_steps=done + 1), tmp_path / "run") == done + 1


def test_an_interrupted_run_draws_nothing_before_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tokenizer_task()
    plain = task.updates

    def interrupting(*arguments: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return plain(*arguments)

    monkeypatch.setattr(task, "updates", interrupting)
    monkeypatch.setattr(task, "preview", lambda network: pytest.fail("drew"))
    assert train(task, replace(SETTINGS, preview_every=1), tmp_path) == 1
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-0000001"]


@pytest.mark.parametrize(("room", "what"), [(-1, "the result"), (1, "a checkpoint")])
def test_a_full_disk_ends_in_one_line_and_leaves_what_was_there(
    room: int, what: str, whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    train(tokenizer_task(), replace(SETTINGS, num_steps=3), tmp_path)
    before = weights(tmp_path, "tokenizer")
    # The system's limit of a file's size stands for the end of the disk: just below or above the weights.
    size = (tmp_path / "tokenizer" / "diffusion_pytorch_model.safetensors").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, limits[1]))
    try:
        with pytest.raises(GenrefineError, match=f"cannot write {what} to .*make room") as caught:
            train(tokenizer_task(), SETTINGS, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob(".writing*"))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000003"]
    after = weights(tmp_path, "tokenizer")
    assert all(torch.equal(before[name], after[name]) for name in before) == (what == "the result")
    train(tokenizer_task(), SETTINGS, tmp_path)
    continued = weights(tmp_path, "tokenizer")
    assert all(torch.equal(continued[name], whole[name]) for name in whole)


def test_a_line_of_metrics_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    lines = ['{"step": 2, "loss": 1}\n', '{"step": 4, "loss": 1}\n', '{"step": 6, "lo']
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    checkpoint.forget_metrics_after(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_text() == lines[0]


def test_tensorboard_has_the_scalars_and_sheets_of_the_run(tmp_path: Path) -> None:
    train(tokenizer_task(), replace(SETTINGS, num_steps=4), tmp_path)
    train(tokenizer_task(), SETTINGS, tmp_path)
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "psnr", "items_per_second"):
        logged = events.Scalars(name)
        assert [scalar.step for scalar in logged] == [2, 4, 6]
        assert [scalar.value for scalar in logged] == pytest.approx([line[name] for line in written], rel=1e-4)
    assert [image.step for image in events.Images("preview")] == [3, 4, 6]
    assert events.Images("preview")[0].encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.parametrize(("make", "shown"), [(tokenizer_task, "psnr"), (refiner_task, "accuracy")])
def test_the_progress_bar_shows_loss_quality_speed_and_time_left(
    make: object, shown: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(make(), replace(SETTINGS, log_every=1), tmp_path)  # type: ignore[operator]
    last = capfd.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    for part in ("6/6", "loss=", f"{shown}=", "items_per_second=", "<", "step/s"):
        assert part in last.replace("s/step", "step/s")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("moment", ["reading", "training"])
def test_a_signal_to_the_whole_group_saves_and_says_so(number: int, moment: str, tmp_path: Path) -> None:
    """A terminal and a scheduler signal the processes that load data, too."""
    for index in range(8):
        Image.new("RGB", (32, 32), (index, 99, 99)).save(tmp_path / f"{index}.png")
    settings = {"data.source": tmp_path, "data.size": 32, "training.num_workers": 2, "training.compile": "false"}
    settings |= {"training.num_steps": 10**6, "training.batch_size": 4, "training.log_every": 1}
    settings |= {"tokenizer.encoder_width": 4, "tokenizer.decoder_width": 4, "tokenizer.latent_dim": 2}
    words = ["train", "small-tokenizer", "--out", tmp_path / "run", "--set", *(f"{k}={v}" for k, v in settings.items())]
    # Before there is anything to save, the command waits for the signal where it reads pictures.
    late = (
        "import genrefine.experiments.tokenizer_run as run, time\n"
        "run.open_source = lambda *_: (print('here', flush=True), time.sleep(60))\n"
    )
    main = "from genrefine.cli import main\nsys.exit(main(sys.argv[1:]))"
    running = subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{late if moment == 'reading' else ''}{main}", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    if moment == "reading":
        assert running.stdout is not None
        assert running.stdout.readline() == "here\n"
    while moment == "training" and not metrics.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, number)
    out, err = running.communicate(timeout=120)
    assert running.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], err
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert err.splitlines()[-1] == f"genrefine train: {word}"
    assert "Traceback" not in err
    if moment == "training":
        assert "run again to continue" in out
        assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1


def test_data_that_fail_in_mid_run_lose_no_update(
    whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that cannot be read ended a run without saving what it had learned since the last time."""
    task = tokenizer_task()
    first, second = islice(EndlessBatches(len(task.dataset), SETTINGS.batch_size, SETTINGS.seed), 2)
    bad = next(index for index in second if index not in first)
    plain = type(task.dataset).__getitem__

    def item(self: object, index: int) -> torch.Tensor:
        if index == bad:
            raise GenrefineError("cannot read picture 'b.png' (truncated); repair or remove it")
        return plain(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(type(task.dataset), "__getitem__", item)
        with pytest.raises(GenrefineError, match=r"no batch for update 2 \(cannot read picture 'b\.png'") as caught:
            train(task, replace(SETTINGS, save_every=100), tmp_path)
    assert str(caught.value).endswith("step-0000001; mend it and run again to continue")
    assert "\n" not in str(caught.value)
    assert train(tokenizer_task(), replace(SETTINGS, save_every=100), tmp_path) == 6
    continued = weights(tmp_path, "tokenizer")
    assert all(torch.equal(continued[name], whole[name]) for name in whole)


def test_what_a_process_that_loads_data_sends_is_told_in_one_line(tmp_path: Path) -> None:
    try:
        raise GenrefineError("cannot read picture 'b.png' (truncated); repair or remove it")
    except GenrefineError:
        sent = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(GenrefineError, match="Original Traceback") as caught:
        sent.reraise()
    told = str(_no_batch(caught.value, 4, tmp_path))
    assert told.startswith(
        "there is no batch for update 5 (cannot read picture 'b.png' (truncated); repair or remove it);"
    )
    assert "\n" not in told
