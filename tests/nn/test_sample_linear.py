"""A layer over one vector per sample must not let the batch size into its last bits."""

import pytest
import torch

from genrefine.nn.layers import SampleLinear


@pytest.mark.parametrize(("features", "outputs"), [(36, 72), (256, 32), (256, 384), (384, 2304)])
@pytest.mark.parametrize("training", [False, True])
def test_a_sample_gets_the_same_bits_in_a_batch_of_any_size(features, outputs, training):
    layer = SampleLinear(features, outputs).train(training).requires_grad_(not training)
    x = torch.randn(33, features, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(not training):
        compare(layer, x)


def compare(layer: SampleLinear, x: torch.Tensor) -> None:
    """Compare the first and the last rows in batches of many sizes."""
    together = layer(x)
    for size in (1, 2, 3, 4, 5, 7, 9, 11, 16, 32):
        assert torch.equal(layer(x[:size]), together[:size])
        assert torch.equal(layer(x[-size:]), together[-size:])


def test_it_is_a_linear_layer_with_the_same_parameters_and_gradients():
    layer, x = SampleLinear(6, 4), torch.randn(3, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plain = torch.nn.Linear(6, 4)
    plain.load_state_dict(layer.state_dict())
    ours, theirs = (torch.autograd.grad(f(x).square().sum(), [x, *f.parameters()]) for f in (layer, plain))
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(ours, theirs)
