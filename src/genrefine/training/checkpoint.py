"""Training states on disk: written beside and renamed, so that a killed process or a full disk loses nothing.

``OUT/checkpoints/step-0000500/`` is accelerate's state of all networks, optimizers and averaged weights.
``OUT/run.json`` identifies the run; only settings that do not change the result may differ when a run continues.
The result (``OUT/tokenizer``, ``OUT/pipeline``) is replaced file by file, each of them whole.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrefine.data.store_files import DATA
from genrefine.errors import GenrefineError
from genrefine.files import flush, read_json, sha256_of, write_atomically
from genrefine.training.averages import forget_pickle, load_averages, save_averages

MAY_CHANGE = {"num_steps", "log_every", "preview_every", "save_every", "keep_checkpoints", "num_workers", "compile"}
LOCK = ".lock"
HASHES = "hashes.json"


def claim(out: Path, run: Mapping[str, Any]) -> FileLock:
    """Make ``out`` this run's folder, or check that it already is, and keep other processes from training in it.

    Returns:
        a lock, to be released when the training ends; the end of the process releases it, too.

    Raises:
        GenrefineError: the folder cannot be written, holds other files, holds a run with other settings, or another
            process trains in it.
    """
    lock = FileLock(out / LOCK, timeout=0)
    record = out / "run.json"
    text = json.dumps(run, indent=2, sort_keys=True, default=str) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if record.exists():
            before = read_json(record, "give another folder")
            differing = sorted(_differences(before, json.loads(text)))
            if differing:
                raise GenrefineError(
                    f"{out} holds a run with other settings ({', '.join(differing)}); "
                    "give the same settings to continue it, or another folder"
                )
        elif any(path.name not in (LOCK, DATA) for path in out.iterdir()):
            raise GenrefineError(f"{out} holds files but no run.json; give an empty folder or that of an earlier run")
        lock.acquire()
        write_atomically(record, text.encode())
        return lock
    except Timeout as error:
        raise GenrefineError(
            f"another process is training in {out}; wait for its end, stop it, or give another folder"
        ) from error
    except OSError as error:
        raise GenrefineError(f"cannot write to {out}: {error.strerror}; give a folder you may write to") from error


def recorded_setting(out: Path, name: str) -> Any:
    """Return a training setting of the run that ``out`` holds; None without such a run."""
    try:
        return json.loads((out / "run.json").read_text())["training"][name]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = {k for k in a.keys() | b.keys() if not (path == "training." and k in MAY_CHANGE)}
        if not path:
            keys.discard("sampler")  # saved beside the weights, and no part of what they become
        # A setting younger than the run: empty or 0 means what the run did without it.
        keys -= {k for k in b.keys() - a.keys() if not b[k]}
        return [d for k in keys for d in _differences(a.get(k), b.get(k), f"{path}{k}.")]
    return [] if a == b else [path.rstrip(".")]


def save(accelerator: Accelerator, out: Path, step: int, keep: int, ema: EMAModel) -> None:
    """Write the training state after ``step`` updates and remove all but the newest ``keep``."""
    folder = out / "checkpoints"
    final, temporary = folder / f"step-{step:07d}", folder / f".writing-{step:07d}"
    if accelerator.is_main_process:
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".writing-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    accelerator.wait_for_everyone()
    with _whole_or_nothing(temporary, "a checkpoint"):
        accelerator.save_state(str(temporary))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            save_averages(ema, temporary)
            files = sorted(path for path in temporary.rglob("*") if path.is_file())
            hashes = {path.relative_to(temporary).as_posix(): sha256_of(path) for path in files}
            write_atomically(temporary / HASHES, json.dumps(hashes, indent=1).encode())
            for path in files:
                flush(path)  # a rename must not come to the disk before what it names
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for old in _checkpoints(out)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)


def publish(write: Callable[[Path], None], out: Path) -> None:
    """Write a result beside ``out``'s files, then put each file in the place of its older self."""
    temporary = out / ".writing-result"
    shutil.rmtree(temporary, ignore_errors=True)
    with _whole_or_nothing(temporary, "the result"):
        write(temporary)
        made = [path for path in temporary.rglob("*") if path.is_file()]
        # Checksums come last: until then the new files do not pass for the old ones.
        for path in sorted(made, key=lambda path: path.suffix == ".json"):
            place = out / path.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            flush(path)
            os.replace(path, place)
    shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _whole_or_nothing(temporary: Path, what: str) -> Iterator[None]:
    """Turn a failure to write into one line and remove what was written, which a full disk has no room for."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch's own writer raises the last
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:160]
        raise GenrefineError(
            f"cannot write {what} to {temporary.parent} ({reason}); what is there already stays; "
            "make room and run the same command again"
        ) from error


def forget_metrics_after(out: Path, step: int) -> None:
    """Drop the lines of ``metrics.jsonl`` that the run is about to write again: those later than its checkpoint."""
    path = out / "metrics.jsonl"
    if path.is_file():
        lines = path.read_text().splitlines(keepends=True)
        write_atomically(path, "".join(line for line in lines if _step_of(line) <= step).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut off when the process was killed


def kept_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return what a training state keeps of a network: of one with an adapter that adapter, else everything."""
    has_adapter = bool(getattr(network, "adapters", ()))
    return [weight for weight in network.parameters() if weight.requires_grad or not has_adapter]


def keep_adapters_only(accelerator: Accelerator) -> None:
    """Let training states hold, of networks with an adapter, only the adapter: the rest is where the run started."""

    def write(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        for number in reversed(range(len(models))):
            if getattr(accelerator.unwrap_model(models[number]), "adapters", ()):
                trained = {name for name, weight in models[number].named_parameters() if weight.requires_grad}
                state = {name: value for name, value in weights.pop(number).items() if name in trained}
                save_file(
                    {k: v.cpu().contiguous() for k, v in state.items()}, Path(folder) / f"adapter-{number}.safetensors"
                )

    def read(models: list[nn.Module], folder: str) -> None:
        for number in reversed(range(len(models))):
            network = models[number]
            if getattr(accelerator.unwrap_model(network), "adapters", ()):
                state = load_file(Path(folder) / f"adapter-{number}.safetensors")
                own = {name for name, weight in network.named_parameters() if weight.requires_grad}
                if own != state.keys():
                    raise KeyError(f"adapter weights {sorted(own ^ state.keys())[:1]}")
                network.load_state_dict(state, strict=False)
                models.pop(number)

    accelerator.register_save_state_pre_hook(write)
    accelerator.register_load_state_pre_hook(read)


def load_newest(accelerator: Accelerator, out: Path, ema: EMAModel) -> int:
    """Load the newest whole training state and return how many updates it has seen; 0 without any state.

    Raises:
        GenrefineError: there are states, and none of them is whole.
    """
    states = _checkpoints(out)
    for state in reversed(states):
        damaged = damaged_file(state)
        if damaged:
            accelerator.print(f"{state} is damaged ({damaged}); continuing from the state before it")
            continue
        try:
            if accelerator.is_main_process:
                forget_pickle(state)
            accelerator.wait_for_everyone()
            accelerator.load_state(str(state))
            load_averages(ema, state)
        except Exception as error:
            raise GenrefineError(
                f"cannot load the training state {state} ({type(error).__name__}); "
                "remove it to continue from an older one"
            ) from error
        return int(state.name.removeprefix("step-"))
    if states:
        raise GenrefineError(f"all training states in {out / 'checkpoints'} are damaged; give another folder")
    return 0


def damaged_file(state: Path) -> str:
    """Return the name of a file of a training state that is missing or altered; nothing if all are as they were.

    States of version 0.1.0 recorded no hashes and pass.
    """
    try:
        if not (state / HASHES).exists():
            return ""
        hashes = read_json(state / HASHES)
        return next((n for n, h in hashes.items() if not (state / n).is_file() or sha256_of(state / n) != h), "")
    except (OSError, GenrefineError):
        return HASHES


def newest_checkpoint(out: Path) -> Path | None:
    """Return the folder of the newest training state, None without one."""
    states = _checkpoints(out)
    return states[-1] if states else None


def _checkpoints(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*")) if (out / "checkpoints").is_dir() else []
