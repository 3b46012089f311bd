"""The arithmetic is chosen by measurement, kept by a run, and decides nothing but speed."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.training.test_loop import refiner_task

from genrefine.training import arithmetic, loop
from genrefine.training.arithmetic import Arithmetic, arithmetic_of
from genrefine.training.loop import train
from genrefine.training.optimizers import Muon, orthogonalized
from genrefine.training.settings import TrainingSettings

SETTINGS = TrainingSettings(num_steps=2, batch_size=4, learning_rate=1e-3, warmup_steps=0, ema_decay=0.5)


@pytest.mark.parametrize(("float32", "bfloat16", "name"), [(60, 1.3, "no"), (60, 61, "no"), (250, 2500, "bf16")])
def test_bfloat16_is_chosen_where_it_is_clearly_faster(float32, bfloat16, name):
    found = Arithmetic(float32, bfloat16)
    assert found.autocast == name
    assert found.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)
    assert ("bfloat16 (" if name == "bf16" else "float32 (") in str(found)


def test_the_measurement_is_of_this_machine_and_made_once():
    arithmetic.measure.cache_clear()
    found = arithmetic_of("cpu")
    assert min(found.float32, found.bfloat16) > 0
    assert arithmetic_of(torch.device("cpu")) is found


def test_a_continued_run_keeps_the_precision_it_began_with(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "arithmetic_of", lambda device: Arithmetic(1.0, 100.0))
    train(refiner_task(), SETTINGS, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["training"]["mixed_precision"] == "bf16"
    assert (
        "training in bfloat16 (a matrix product runs at 1 GFLOP/s in float32, 100 in bfloat16)"
        in capsys.readouterr().out
    )
    monkeypatch.setattr(loop, "arithmetic_of", lambda device: Arithmetic(100.0, 1.0))  # the same run, another machine
    longer = TrainingSettings(**{**vars(SETTINGS), "num_steps": 3})
    assert train(refiner_task(), longer, tmp_path) == 3
    assert json.loads((tmp_path / "run.json").read_text())["training"]["mixed_precision"] == "bf16"


@pytest.mark.parametrize("shape", [(24, 24), (12, 40), (40, 12)])
def test_orthogonalized_matrices_keep_their_directions_and_lose_their_lengths(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalized(matrix, torch.float64, (3.4445, -4.775, 2.0315), 5, 1e-7)
    turned = u.T @ found @ v.T
    assert turned.diag().min() > 0.5
    assert turned.diag().max() < 1.5
    assert (turned - torch.diag(turned.diag())).abs().max() < 1e-6


def test_in_bfloat16_the_steps_are_those_of_torch(monkeypatch):
    monkeypatch.setattr("genrefine.training.optimizers.arithmetic_of", lambda device: Arithmetic(1.0, 100.0))
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(20, 12, generator=generator), torch.randn(3, 20, 12, generator=generator)
    ours = partial(Muon, lr=0.02, weight_decay=0.1)
    found = []
    for kind in (ours, partial(torch.optim.Muon, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight])
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        found.append(weight.detach())
    assert torch.allclose(*found, atol=1e-6)
