"""Refiners become one graph: compiled without a break, exported, and their conditions are arguments of it."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.utils._pytree as pytree
from diffusers.training_utils import EMAModel
from networks import NETWORKS, REFINERS, arguments

from genrefine.conditioning.text_condition import TextCondition
from tiny_models import tiny_clip_tokenizer


def test_refiners_compile_and_export() -> None:
    """In a process of its own: the checks of shapes that tests put around every function are no part of a graph."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])}
    words = [sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", str(here / "graphs.py")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("kind", REFINERS)
def test_a_condition_comes_apart_and_together(kind: str) -> None:
    make, _ = NETWORKS[kind]
    codes, signal, condition = arguments(kind)
    refiner = make()
    prepared = refiner.prepare(condition) if isinstance(condition, TextCondition) else condition
    for one in (condition, prepared):
        tensors, spec = pytree.tree_flatten(one)
        again = pytree.tree_unflatten([None if tensor is None else tensor.clone() for tensor in tensors], spec)
        assert len(again) == 3
        with torch.no_grad():
            assert torch.equal(refiner(codes, signal, again), refiner(codes, signal, one))
            assert torch.equal(refiner(codes, signal, again.null()), refiner(codes, signal, one.null()))


@pytest.mark.parametrize("kind", REFINERS)
def test_averaged_weights_are_saved_and_loaded_by_diffusers(kind: str, tmp_path: Path) -> None:
    make, network_class = NETWORKS[kind]
    network = make()
    averages = EMAModel(network.parameters(), decay=0.5, model_cls=network_class, model_config=network.config)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1)
    averages.step(network.parameters())
    averages.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of diffusers, about its own way to read a configuration
        loaded = EMAModel.from_pretrained(tmp_path, network_class)
    assert (loaded.decay, loaded.optimization_step) == (0.5, 1)
    assert all(torch.equal(a, b) for a, b in zip(loaded.shadow_params, averages.shadow_params, strict=True))


def test_checkpointing_of_the_tokenizer_is_reported_and_changes_no_gradient() -> None:
    pixels = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    gradients = []
    for is_on in (False, True):
        tokenizer = tiny_clip_tokenizer().train()
        if is_on:
            tokenizer.enable_gradient_checkpointing()
        assert tokenizer.is_gradient_checkpointing is is_on
        (tokenizer(pixels) - pixels).square().mean().backward()
        gradients.append({name: weight.grad for name, weight in tokenizer.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    tokenizer.disable_gradient_checkpointing()
    assert not tokenizer.is_gradient_checkpointing
