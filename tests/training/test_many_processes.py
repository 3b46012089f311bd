"""Training in two processes (accelerate, gloo on the CPU): one run, one set of files, the update of the whole batch."""

import json
import sys
from pathlib import Path

import pytest
import torch
from test_loop import SETTINGS, tokenizer_task, weights

from genrefine.training.loop import train
from two_processes import in_two_processes

PROGRAM = """
import os
import sys
sys.path[:0] = {path!r}
from dataclasses import replace
from pathlib import Path
import torch
from test_loop import SETTINGS, adversarial_task, refiner_task, tokenizer_task, train
torch.set_num_threads(1)
tasks = {{"plain": lambda: tokenizer_task(flip=False, rounds=(2,)), "adversarial": adversarial_task,
          "refiner": refiner_task, "told": lambda: told(tokenizer_task())}}

def told(task):
    plain = task.updates
    def updates(networks, batch, generator):
        with open(Path(sys.argv[2].split(":")[0] + ".seeds." + os.environ["RANK"]), "a") as seeds:
            print(generator.initial_seed(), file=seeds)
        return plain(networks, batch, generator)
    task.updates = updates
    return task

for place in sys.argv[2:]:
    folder, num_steps = place.split(":")
    train(tasks[sys.argv[1]](), replace(SETTINGS, num_steps=int(num_steps)), Path(folder))
"""


def write_program(folder: Path) -> Path:
    program = folder / "program.py"
    program.write_text(PROGRAM.format(path=sys.path))
    return program


def test_two_processes_make_the_updates_of_one(tmp_path: Path) -> None:
    # Without draws of its own a task has one loss per item, so the mean over processes is the mean over the batch.
    train(tokenizer_task(flip=False, rounds=(2,)), SETTINGS, tmp_path / "one")
    answer = in_two_processes(write_program(tmp_path), "plain", f"{tmp_path / 'two'}:6")
    assert answer.returncode == 0, answer.stderr
    one, two = (weights(tmp_path / name, "tokenizer") for name in ("one", "two"))
    start = tokenizer_task().networks["tokenizer"].state_dict()
    moved, apart = (torch.cat([(one[k] - other[k]).flatten().abs() for k in one]) for other in (start, two))
    assert moved.mean() > 1e-4
    # AdamW turns rounding into steps where a gradient is nothing but rounding.
    assert apart.mean() < 0.02 * moved.mean()
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]


@pytest.mark.parametrize(("task", "name"), [("adversarial", "tokenizer"), ("refiner", "refiner")])
def test_runs_of_two_networks_and_of_draws_end_and_go_on(task: str, name: str, tmp_path: Path) -> None:
    runs = [f"{tmp_path / folder}:{num_steps}" for folder, num_steps in (("whole", 6), ("parts", 3), ("parts", 6))]
    answer = in_two_processes(write_program(tmp_path), task, *runs)
    assert answer.returncode == 0, answer.stderr
    whole, parts = (weights(tmp_path / out, name) for out in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert "continuing" in answer.stdout


def test_every_process_draws_its_own_numbers(tmp_path: Path) -> None:
    """Equal draws in all processes would corrupt every part of a batch alike, which no loss shows."""
    answer = in_two_processes(write_program(tmp_path), "told", f"{tmp_path / 'run'}:6")
    assert answer.returncode == 0, answer.stderr
    # A file for each process: what two processes print into one pipe may interleave.
    seeds = [line for rank in (0, 1) for line in (tmp_path / f"run.seeds.{rank}").read_text().splitlines()]
    assert len(seeds) == 12
    assert len(set(seeds)) == 12
