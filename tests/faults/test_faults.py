"""Commands meet faults at random moments: nothing whole is lost, what is left goes on to the same result.

A training of 24 updates that saves every fourth, and an encoding, each in a process of its own. After every fault the
same command runs again without one; its weights must be those of a run that nothing disturbed, bit for bit.
`GENREFINE_FAULTS=N` makes N times as many tries (`make faults`); the seed is fixed.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faulty
import pytest
from fault_table import Table
from PIL import Image

import genrefine
from genrefine.data import CodeStore
from genrefine.files import sha256_of

TRIES = int(os.environ.get("GENREFINE_FAULTS", "1"))
SAVE_EVERY, STEPS = 4, 24
WEIGHTS = "tokenizer/diffusion_pytorch_model.safetensors"


class Place:
    """Where commands run, and what they give undisturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.work.mkdir()
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["faulty"])
        pictures = folder / "pictures"
        pictures.mkdir()
        for index in range(8):
            Image.effect_noise((32, 32), 40 + index).convert("RGB").save(pictures / f"{index}.png")
        settings = {"data.source": pictures, "data.size": 32, "training.compile": "false", "training.batch_size": 4}
        settings |= {"training.num_steps": STEPS, "training.log_every": 1, "training.save_every": SAVE_EVERY}
        settings |= {"tokenizer.encoder_width": 4, "tokenizer.decoder_width": 4, "tokenizer.latent_dim": 2}
        settings |= {"training.mixed_precision": "no", "training.preview_every": 8}
        self.set = [f"{name}={value}" for name, value in settings.items()]
        self.train = ["train", "small-tokenizer", "--out", self.work / "run", "--set", *self.set]
        assert self.go(self.train)[0] == 0, self.log.read_text()
        self.whole = sha256_of(self.work / "run" / WEIGHTS)
        shutil.move(self.work / "run", folder / "whole")
        self.encode = ["encode", pictures, "--model", folder / "whole" / "tokenizer", "--size", 32]
        self.encode += ["--batch-size", 1, "--output", self.work / "codes"]
        self.seconds = {}
        for name, words, made in (("train", self.train, "run"), ("encode", self.encode, "codes")):
            start = time.monotonic()
            assert self.go(words)[0] == 0, self.log.read_text()
            self.seconds[name] = time.monotonic() - start
            shutil.rmtree(self.work / made)

    @property
    def log(self) -> Path:
        """Output of the latest command."""
        return self.folder / "log"

    def go(self, words: list[Any], fault: str = "none", number: int = 0, meanwhile: Any = None) -> tuple[int, str]:
        """Run a command to its end and return its exit code and last line."""
        self.log.unlink(missing_ok=True)
        process = faulty.start(self.context, words, self.log, fault, number)
        if meanwhile is not None:
            meanwhile(process)
        process.join(300)
        assert process.exitcode is not None, "the command hangs"
        lines = self.log.read_text().strip().splitlines() if self.log.exists() else []
        return process.exitcode, lines[-1] if lines else ""

    def locked(self, words: list[Any]) -> list[Any]:
        """Return a command that writes into a folder which nobody but root may write to."""
        locked = self.folder / "locked"
        locked.mkdir(exist_ok=True)
        locked.chmod(0o555)
        return [locked / word.name if word in (self.work / "run", self.work / "codes") else word for word in words]

    def saved(self) -> tuple[int, int]:
        """Return the last update that was logged, and the last one that was saved."""
        run = self.work / "run"
        lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
        whole = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        steps = [int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")]
        return max(whole, default=0), max(steps, default=0)

    @contextmanager
    def disk(self, fault: str, number: int) -> Iterator[Callable[[], None]]:
        """Work on a disk of so many bytes if the fault is `disk`; what it gives is called when there is room again."""
        if fault != "disk":
            yield lambda: None
            return
        if not mount(self.work, f"size={number}"):
            pytest.skip("a small disk may not be mounted here; the limit on the size of a file stands for it")
        try:
            yield lambda: mount(self.work, "remount,size=1g") or pytest.fail("the disk cannot grow")
        finally:
            subprocess.run(["umount", str(self.work)], check=True)


def mount(folder: Path, options: str) -> bool:
    """Mount a disk in memory at a folder, or change it, and return whether this is allowed."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    # The server that forks processes finds what it is to import before by this variable alone.
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory(prefix="genrefine-faults-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))
        os.chmod(folder, 0o755)
        yield Place(Path(folder))


def ends_well(code: int, last: str, log: str, codes: set[int]) -> bool:
    """Return whether a command ended as it should: with a code of these, in one line, without a traceback."""
    return code in codes and "Traceback" not in log and (code <= 0 or last.startswith("genrefine"))


def require_readable(fault: str) -> None:
    """Skip where the process that gives up root's rights could not even read the program."""
    package = Path(genrefine.__file__)
    if fault == "readonly" and os.geteuid() == 0 and not all(place.stat().st_mode & 0o001 for place in package.parents):
        pytest.skip(f"nobody but root may read {package.parent}")


def sender(number: int, seconds: float) -> Callable[[Any], None]:
    def send(process: Any) -> None:
        process.join(seconds)
        if process.exitcode is None:
            os.kill(process.pid, number)

    return send


CASES = {
    "killed at a random moment": ("kill", {-signal.SIGKILL, 0}),
    "killed while it renames a file": ("replace", {-signal.SIGKILL, 0}),
    "killed while it flushes a file": ("flush", {-signal.SIGKILL, 0}),
    "SIGTERM at a random moment": ("term", {143, 0}),
    "Ctrl-C at a random moment": ("int", {130, 0}),
    "no room for a file": ("full", {2, 0}),
    "the disk is full": ("disk", {2, 0}),
    "gradients turn NaN": ("nan", {2}),
    "the clock jumps by days": ("clock", {0}),
    "a process that loads data dies": ("reader", {2}),
    "a folder that cannot be written": ("readonly", {2}),
}
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
RANGES = {
    "replace": (1, 30),
    "flush": (1, 60),
    "full": (200, 60_000),
    "disk": (4096, 600_000),
    "nan": (2, STEPS),
    "clock": (2, 9),
}
RANGES["reader"] = (2, STEPS - 8)  # some batches more are read already


@pytest.mark.parametrize("case", CASES)
def test_a_training_survives(case: str, place: Place, table: Table) -> None:
    fault, codes = CASES[case]
    if fault == "reader" and not Path("/proc/self/stat").exists():
        pytest.skip("finds the processes that load data in /proc")
    require_readable(fault)
    draw = random.Random(case)
    words = [*place.train, "training.num_workers=2"] if fault == "reader" else place.train
    words = place.locked(words) if fault == "readonly" else words
    for _ in range(TRIES * (2 if fault in SIGNALS else 1)):
        shutil.rmtree(place.work / "run", ignore_errors=True)
        meanwhile = sender(SIGNALS[fault], draw.uniform(0, place.seconds["train"])) if fault in SIGNALS else None
        number = draw.randint(*RANGES.get(fault, (0, 0)))
        with place.disk(fault, number) as make_room:
            code, last = place.go(words, fault, number, meanwhile)
            fine = ends_well(code, last, place.log.read_text(), codes)
            logged, kept = place.saved()
            lost = 0 if code == 0 else max(logged - kept, 0)
            log = place.log.read_text()
            make_room()
            again, _ = place.go(place.train)
            same = again == 0 and sha256_of(place.work / "run" / WEIGHTS) == place.whole
            table.add(f"training: {case}", fine and same, lost, "updates")
            assert fine, f"{code}: {log[-300:]!r}"
            assert same, f"{again}: {place.log.read_text()[-2000:]}"
            assert lost <= (0 if fault in ("term", "int") else SAVE_EVERY)
            assert not list((place.work / "run").rglob(".writing*"))


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] not in ("nan", "reader")])
def test_an_encoding_survives(case: str, place: Place, table: Table) -> None:
    fault, codes = CASES[case]
    require_readable(fault)
    draw = random.Random(case)
    words = place.locked(place.encode) if fault == "readonly" else place.encode
    for _ in range(TRIES):
        shutil.rmtree(place.work / "codes", ignore_errors=True)
        meanwhile = sender(SIGNALS[fault], draw.uniform(0, place.seconds["encode"])) if fault in SIGNALS else None
        number = draw.randint(*RANGES.get(fault, (0, 0))) // 5 + 1
        with place.disk(fault, number) as make_room:
            code, last = place.go(words, fault, number, meanwhile)
            fine = ends_well(code, last, place.log.read_text(), codes)
            log = place.log.read_text()
            if (place.work / "codes" / "index.json").exists():  # whole, just before the end
                CodeStore.open(place.work / "codes").verify()
                shutil.rmtree(place.work / "codes")
            whole = not list(place.work.glob("codes/*"))
            make_room()
            again = place.go(place.encode)[0]
            if again == 0:
                CodeStore.open(place.work / "codes").verify()
            left = [path.name for path in place.work.iterdir() if path.name.startswith(".")]
            table.add(f"encoding: {case}", fine and whole and again == 0 and not left)
            assert fine, f"{code}: {log[-300:]!r}"
            assert whole, "a store that is not whole"
            assert again == 0, place.log.read_text()[-2000:]
            assert not left
