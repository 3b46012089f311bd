"""Norms and the gated layer against their formulas."""

import pytest
import torch
from torch.nn import functional as F

from genrefine.nn.layers import ModulatedRMSNorm, RMSNorm, SwiGLU

GENERATOR = torch.Generator().manual_seed(0)


def test_rms_norm_is_its_formula():
    norm, x = RMSNorm(6), torch.randn(4, 3, 6, generator=GENERATOR)
    torch.nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (6,), norm.weight, 1e-6))


def test_neutral_modulation_is_the_plain_norm():
    norm, x = ModulatedRMSNorm(6), torch.randn(2, 3, 6, generator=GENERATOR)
    torch.testing.assert_close(norm(x, torch.zeros(2, 6), torch.zeros(2, 6)), F.rms_norm(x, (6,), None, 1e-6))


def test_modulation_scales_by_one_plus_scale_and_then_shifts():
    norm, x = ModulatedRMSNorm(6), torch.randn(2, 3, 6, generator=GENERATOR)
    torch.nn.init.normal_(norm.weight)
    shift, scale = torch.randn(2, 2, 6, generator=GENERATOR)
    expected = F.rms_norm(x, (6,), norm.weight, 1e-6) * (1 + scale[:, None]) + shift[:, None]
    torch.testing.assert_close(norm(x, shift, scale), expected)


@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_statistics_are_float32_for_bfloat16_input(size):
    """Sums over 4096 squares lose everything after the first few in bfloat16."""
    x = (torch.randn(3, 4096, generator=GENERATOR) * size).to(torch.bfloat16)
    norm = RMSNorm(4096).to(torch.bfloat16)
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x).float(), F.rms_norm(x.float(), (4096,), None, 1e-6), atol=0, rtol=2**-8)


def test_swiglu_reads_the_gate_from_the_first_half():
    layer, x = SwiGLU(4, 5), torch.randn(3, 4, generator=GENERATOR)
    both = layer.gate_and_value(x)
    torch.testing.assert_close(layer(x), layer.output(F.silu(both[:, :5]) * both[:, 5:]))


def test_swiglu_with_weights_apart_is_the_fused_one_without_biases():
    apart, fused = SwiGLU(4, 5, is_fused=False), SwiGLU(4, 5)
    x = torch.randn(3, 4, generator=GENERATOR)
    with torch.no_grad():
        fused.gate_and_value.weight.copy_(torch.cat([apart.gate.weight, apart.value.weight]))
        fused.output.weight.copy_(apart.output.weight)
        fused.gate_and_value.bias.zero_()
        fused.output.bias.zero_()
    torch.testing.assert_close(apart(x), fused(x))
    assert sorted(apart.state_dict()) == ["gate.weight", "output.weight", "value.weight"]
