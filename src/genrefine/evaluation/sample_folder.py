"""A folder of samples: drawn in batches of any size, by any number of processes, continued after a kill.

Sample i has seed i, so the set is the same however it is cut. `run.json` says what decides the samples, and every
finished batch is one safetensors file that says by its name and its rows which samples it holds:

    run.json   samples-000000.safetensors   samples-000064.safetensors   ...

Of several processes (`torchrun`), each draws every n-th batch of those that are missing, and the files are how the
others get to see them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm.auto import tqdm

from genrefine.errors import GenrefineError
from genrefine.files import process_place, read_json, write_atomically

Make = Callable[[int, int], dict[str, Tensor]]
"""Draws the samples from one number up to another."""


def draw_batches(
    count: int, batch_size: int, make: Make, folder: Path | None, claim: dict[str, Any], progress: bool
) -> dict[str, Tensor]:
    """Draw samples batch by batch and return their tensors, joined.

    Args:
        count: how many.
        batch_size: samples per call.
        make: draws the samples from one number up to another.
        folder: where finished batches are kept, if anywhere; several processes need one.
        claim: what decides the samples; a folder of another claim is refused.
        progress: show a progress bar.

    Raises:
        GenrefineError: the folder belongs to another run, or there is none for several processes.
    """
    rank, processes = process_place()
    if folder is None:
        if processes > 1:
            raise GenrefineError(f"{processes} processes share their samples through a folder; give one (--samples)")
        batches = []
        with _bar(count, 0, progress) as bar:
            for start in range(0, count, batch_size):
                batches.append(make(start, min(start + batch_size, count)))
                bar.update(len(next(iter(batches[-1].values()))))
        return _joined(batches)
    if rank == 0:
        claim_folder(folder, claim)
    missing = missing_ranges(folder, count, batch_size)
    meet(processes)  # all have looked before one writes
    own = missing[rank::processes]
    with _bar(count, count - sum(end - start for start, end in missing), progress and rank == 0) as bar:
        for start, end in own:
            write_atomically(_file(folder, start), save(make(start, end)))
            bar.update((end - start) * processes)
    meet(processes)
    return read_samples(folder, count)


def missing_ranges(folder: Path, count: int, batch_size: int) -> list[tuple[int, int]]:
    """Return what is still to be drawn of `count` samples, in batches: first number, and the one after the last."""
    is_there = [False] * count
    for path in folder.glob("samples-*.safetensors"):
        start, rows = _start_of(path), _rows_of(path)
        for number in range(start, min(start + rows, count)):
            is_there[number] = True
    ranges: list[tuple[int, int]] = []
    for number in range(count):
        if is_there[number]:
            continue
        if ranges and ranges[-1][1] == number and number - ranges[-1][0] < batch_size:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges


def read_samples(folder: Path, count: int | None = None) -> dict[str, Tensor]:
    """Return the tensors of a folder of samples, in the order of their numbers.

    Args:
        folder: of a finished run, or one of which `count` samples are drawn.
        count: how many; by default all.

    Raises:
        GenrefineError: there are none, or some of them are missing.
    """
    batches: dict[int, dict[str, Tensor]] = {}
    for path in sorted(folder.glob("samples-*.safetensors")):
        batches[_start_of(path)] = _load(path)
    taken, reached = [], 0
    for start, batch in sorted(batches.items()):
        rows = len(next(iter(batch.values())))
        if start > reached:
            break
        if start + rows > reached:  # a run with another batch size may have drawn the first of them already
            taken.append({name: tensor[reached - start :] for name, tensor in batch.items()})
            reached = start + rows
    wanted = reached if count is None else count
    last = max((start + len(next(iter(one.values()))) for start, one in batches.items()), default=0)
    if reached < wanted or reached == 0 or (count is None and last > reached):
        raise GenrefineError(
            f"'{folder}' must hold samples 0 to {(count or max(last, 1)) - 1}; number {reached} is missing; "
            "run the same evaluation again, which draws it"
        )
    return {name: tensor[:wanted] for name, tensor in _joined(taken).items()}


def claim_of(folder: Path) -> dict[str, Any]:
    """Return what decided the samples of a folder.

    Raises:
        GenrefineError: it has no readable `run.json`.
    """
    if not (folder / "run.json").is_file():
        raise GenrefineError(f"'{folder}' holds no samples: there is no run.json, as `evaluate ... --samples` writes")
    return read_json(folder / "run.json", "draw the samples again")


def claim_folder(folder: Path, run: dict[str, Any]) -> None:
    """Note in `run.json` what decides the samples of a folder.

    Raises:
        GenrefineError: it holds those of another run.
    """
    text = json.dumps(run, sort_keys=True, default=list)
    file = folder / "run.json"
    if not file.is_file():
        write_atomically(file, text.encode())
        return
    before = read_json(file, "give another folder, or delete it")
    changed = [name for name, value in json.loads(text).items() if before.get(name) != value]
    if changed:
        raise GenrefineError(
            f"'{folder}' holds samples of another run (different {', '.join(changed)}); give another or delete it"
        )


def meet(processes: int) -> None:
    """Wait until all processes have come this far."""
    if processes > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _bar(count: int, initial: int, progress: bool) -> Any:
    return tqdm(total=count, initial=initial, desc="sampling", unit="picture", disable=not progress)


def _file(folder: Path, start: int) -> Path:
    return folder / f"samples-{start:06d}.safetensors"


def _start_of(path: Path) -> int:
    number = path.stem.removeprefix("samples-")
    if not number.isdecimal():
        raise GenrefineError(f"'{path}' is no file of samples; they are named samples-000000.safetensors; delete it")
    return int(number)


def _rows_of(path: Path) -> int:
    try:
        with safe_open(path, "pt") as file:
            return int(file.get_slice("num_steps").get_shape()[0])
    except (SafetensorError, OSError) as error:
        raise GenrefineError(f"'{path}' is damaged ({error}); delete it, and its samples are drawn again") from None


def _load(path: Path) -> dict[str, Tensor]:
    _rows_of(path)
    return load_file(path)


def _joined(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
