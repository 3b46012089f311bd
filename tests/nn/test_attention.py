"""Attention: the explicit product equals the fused kernel, and the layer equals its definition."""

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from genrefine.nn import attention
from genrefine.nn.attention import SelfAttention, attend
from genrefine.nn.rope import grid_angles

ANGLES = grid_angles(3, 4, 8)
ROTATION = ANGLES.cos(), ANGLES.sin()


@pytest.mark.parametrize("samples_in_cache", [1, 2, 100])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_explicit_product_of_bfloat16_equals_the_fused_kernel(samples_in_cache, masked, trained, monkeypatch):
    monkeypatch.setattr(attention, "CACHED_ELEMENTS", samples_in_cache * 4 * 12 * 12)
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 5, 4, 12, 8, generator=generator).bfloat16().requires_grad_(trained)
    mask = torch.rand(5, 1, 1, 12, generator=generator) < 0.6 if masked else None
    exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    assert attend(query, key, value, mask).dtype == torch.bfloat16
    torch.testing.assert_close(attend(query, key, value, mask).float(), exact, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("samples_in_cache", [1, 2, 100])
def test_parts_that_stay_in_the_cache_change_no_bit(samples_in_cache, monkeypatch):
    torch.manual_seed(0)
    layer, x = SelfAttention(32, 4), torch.randn(5, 12, 32)
    whole, _ = layer(x, ROTATION)
    monkeypatch.setattr(attention, "CACHED_ELEMENTS", samples_in_cache * 12 * 32)
    with torch.no_grad():
        assert torch.equal(layer(x, ROTATION)[0], whole)


def published_rotation(x: torch.Tensor) -> torch.Tensor:
    """Turn consecutive pairs and write them back in place."""
    first, second = rearrange(x, "... (pairs two) -> two ... pairs", two=2)
    cos, sin = ROTATION
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


def test_layer_equals_attention_with_pairs_rotated_in_place():
    torch.manual_seed(0)
    layer, x = SelfAttention(32, 4), torch.randn(2, 12, 32)
    torch.nn.init.normal_(layer.query_norm.weight)
    torch.nn.init.normal_(layer.key_norm.weight)
    query, key, value = rearrange(layer.query_key_value(x), "b n (three h d) -> three b h n d", three=3, h=4)
    query = published_rotation(F.rms_norm(query, (8,), layer.query_norm.weight, 1e-6))
    key = published_rotation(F.rms_norm(key, (8,), layer.key_norm.weight, 1e-6))
    weights = (query @ key.mT / 8**0.5).softmax(-1)
    expected = layer.output(rearrange(weights @ value, "b h n d -> b n (h d)"))
    torch.testing.assert_close(layer(x, ROTATION)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_keeps_the_dtype_it_runs_in(dtype):
    layer = SelfAttention(32, 4).to(dtype)
    assert layer(torch.zeros(1, 12, 32, dtype=dtype), ROTATION)[0].dtype == dtype


def test_weights_apart_and_shared_heads_are_the_fused_matrix_with_rows_repeated():
    torch.manual_seed(0)
    apart, fused = SelfAttention(32, 4, num_kv_heads=2, is_fused=False), SelfAttention(32, 4)
    x = torch.randn(2, 12, 32)
    with torch.no_grad():
        key, value = (
            layer.weight.unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
            for layer in (apart.key, apart.value)
        )
        fused.query_key_value.weight.copy_(torch.cat([apart.query.weight, key, value]))
        fused.query_key_value.bias.zero_()
        fused.output.weight.copy_(apart.output.weight)
        fused.output.bias.zero_()
    got, (keys, values) = apart(x, ROTATION)
    expected, (all_keys, all_values) = fused(x, ROTATION)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(keys.repeat_interleave(2, dim=1), all_keys)
    torch.testing.assert_close(values.repeat_interleave(2, dim=1), all_values)
    assert sorted(apart.state_dict()) == [
        *("key.weight", "key_norm.weight", "output.weight"),
        *("query.weight", "query_norm.weight", "value.weight"),
    ]
