"""A layer over one vector per sample must not let the batch size into its last bits."""

import pytest
import torch

from genrefine.nn.layers import Float32Linear, batch_invariant


@pytest.mark.parametrize(("features", "outputs"), [(36, 72), (256, 32), (256, 384), (384, 2304)])
@pytest.mark.parametrize("training", [False, True])
def test_a_sample_gets_the_same_bits_in_a_batch_of_any_size(features, outputs, training):
    layer = torch.nn.Linear(features, outputs).train(training).requires_grad_(not training)
    x = torch.randn(33, features, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(not training):
        compare(layer, x)


def compare(layer: torch.nn.Linear, x: torch.Tensor) -> None:
    """Compare the first and the last rows in batches of many sizes."""
    together = batch_invariant(layer, x, layer.training)
    for size in (1, 2, 3, 4, 5, 7, 9, 11, 16, 32):
        assert torch.equal(batch_invariant(layer, x[:size], layer.training), together[:size])
        assert torch.equal(batch_invariant(layer, x[-size:], layer.training), together[-size:])


def test_values_and_gradients_are_those_of_the_layer():
    layer = torch.nn.Linear(6, 4)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours, theirs = (
        torch.autograd.grad(f(x).square().sum(), [x, *layer.parameters()])
        for f in (lambda rows: batch_invariant(layer, rows, True), layer)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product_in_float32_is_one_whatever_autocast_says(dtype):
    layer, x = Float32Linear(6, 4).to(dtype), torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(x)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, x @ layer.weight.float().T + layer.bias.float())
