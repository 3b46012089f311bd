"""Compiled and exported refiners: tests that `test_graphs` runs in a process of their own."""

from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from networks import NETWORKS, REFINERS, answer, arguments

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.conditioning.text_condition import Prompts, TextCondition
from tiny_models import tiny_text_refiner

pytestmark = [
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]
# An exported program keeps the inputs that it was made from, which are read back as pickles of these alone.
OURS = [ClassCondition, TextCondition, Prompts]


@pytest.mark.parametrize("kind", REFINERS)
def test_a_refiner_compiles_without_a_break(kind: str) -> None:
    torch._dynamo.reset()
    make, _ = NETWORKS[kind]
    compiled = torch.compile(make(), fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*arguments(kind)), answer(kind, make()))


@pytest.mark.parametrize("kind", ["class", "text, joint"])
def test_a_refiner_is_exported_and_saved(kind: str, tmp_path: Path) -> None:
    make, _ = NETWORKS[kind]
    with torch.no_grad():
        torch.export.save(torch.export.export(make(), arguments(kind)), tmp_path / "refiner.pt2")
    with torch.serialization.safe_globals(OURS):
        loaded = torch.export.load(tmp_path / "refiner.pt2").module()
    codes, signal, condition = arguments(kind)
    with torch.no_grad():
        torch.testing.assert_close(loaded(codes, signal, condition), answer(kind, make()))
        torch.testing.assert_close(loaded(1 - codes, signal, condition), make()(1 - codes, signal, condition))


@pytest.mark.parametrize("attention", ["joint", "prefix"])
def test_compiled_blocks_serve_captions_of_any_length(attention: str) -> None:
    torch._dynamo.reset()
    compiled, plain = tiny_text_refiner(attention=attention), tiny_text_refiner(attention=attention)
    counter = torch._dynamo.testing.CompileCounter()
    compiled.compile_repeated_blocks(backend=counter, dynamic=True)
    draw = torch.Generator().manual_seed(0)
    graphs = []
    for lengths in ([5, 3, 4], [6, 2, 9], [1, 1, 1], [4, 8, 7], [3, 3, 2]):
        prompts = [torch.randn(length, 24, generator=draw) for length in lengths]
        inputs = arguments("text, joint")[:2], TextCondition.of(prompts, torch.randn(2, 24, generator=draw))
        made, expected = (network(*inputs[0], inputs[1]) for network in (compiled, plain))
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)
        graphs.append(counter.frame_count)
    assert graphs[-1] == graphs[2]  # no batch after the third needs another graph
