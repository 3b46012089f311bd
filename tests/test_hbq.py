"""HBQ against its sequential definition, and the laws it must keep."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open

from genrefine import HBQ, GenrefineError
from genrefine.hbq import pack_bits, to_bits, to_index, unpack_bits

GOLDEN = Path(__file__).parent / "goldens" / "hbq.safetensors"
EDGES = [0.0, -0.0, 1.0, -1.0, 1.5, -7.0, 1e-45, -1e-45, 1e-30, -1e-30, 0.5, -0.5, 0.25, 0.99999994, -0.99999994]


def sequential(z: torch.Tensor, rounds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Method section 1, word for word, in float64."""
    z, q, bits = z.double(), torch.zeros_like(z, dtype=torch.float64), []
    for r in range(1, rounds + 1):
        b = z > q
        q = q + torch.where(b, 1.0, -1.0) * 2.0**-r
        bits.append(b.int())
    return torch.cat(bits, dim=1), q.float()


latent_values = st.one_of(
    st.floats(-1.5, 1.5, width=32, allow_subnormal=True),
    st.sampled_from(EDGES),
    st.integers(-(2**16), 2**16).map(lambda n: n / 2**16),
)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), shape=shapes, rounds=st.integers(1, 16))
def test_closed_form_is_the_sequential_definition(data: st.DataObject, shape: tuple[int, ...], rounds: int) -> None:
    z = torch.from_numpy(data.draw(arrays("float32", shape, elements=latent_values)))
    bits, quantized = sequential(z, rounds)
    bit, index = HBQ(rounds, "bit"), HBQ(rounds, "index")
    assert torch.equal(bit.encode(z), bits)
    assert torch.equal(bit.decode(bits), quantized)
    assert torch.equal(index.decode(index.encode(z)), quantized)
    assert torch.equal(bit.quantize(z), quantized)
    inside = z.clamp(-1, 1)
    assert ((inside - index.decode(index.encode(inside))).abs() <= 2.0**-rounds).all()


@settings(deadline=None, max_examples=60)
@given(shape=shapes, rounds=st.integers(1, 16), seed=st.integers(0, 2**31))
def test_layouts_and_packed_bytes_carry_the_same_code(shape: tuple[int, ...], rounds: int, seed: int) -> None:
    index = torch.randint(0, 2**rounds, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    bits = to_bits(index, rounds)
    assert bits.shape[1] == rounds * shape[1]
    assert torch.equal(to_index(bits, rounds), index)
    for codes, width in ((index, rounds), (bits, 1)):
        packed = pack_bits(codes, width)
        assert packed.shape == (shape[0], -(-codes[0].numel() * width // 8))
        assert torch.equal(unpack_bits(packed, codes.shape[1:], width), codes)


@pytest.mark.parametrize("rounds", range(1, 9))
def test_published_vectors_are_reproduced(rounds: int) -> None:
    with safe_open(GOLDEN, "pt") as golden:
        z = golden.get_tensor("feat5")
        names = ("index_label", "bit_label", "index_dequant", "bit_dequant")
        index, bits, of_index, of_bits = (golden.get_tensor(f"r{rounds}.t2iv.{name}") for name in names)
    for hbq, codes, quantized in ((HBQ(rounds, "index"), index, of_index), (HBQ(rounds, "bit"), bits, of_bits)):
        assert torch.equal(hbq.encode(z), codes.int())
        assert torch.equal(hbq.decode(codes.int()), quantized)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    z = torch.linspace(-1, 1, 4096).to(dtype).reshape(1, 1, 1, 64, 64)
    hbq = HBQ(8, "index")
    assert torch.equal(hbq.encode(z), hbq.encode(z.float()))
    assert hbq.straight_through(z).dtype == dtype


def test_straight_through_passes_values_forward_and_gradients_back() -> None:
    z = torch.linspace(-0.9, 0.9, 12).reshape(1, 3, 1, 2, 2).requires_grad_()
    hbq = HBQ(3, "bit")
    out = hbq.straight_through(z)
    assert torch.allclose(out, hbq.decode(hbq.encode(z)), atol=1e-7)
    (out * torch.arange(12.0).reshape_as(out)).sum().backward()
    assert torch.equal(z.grad, torch.arange(12.0).reshape_as(out))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_latents_are_refused(bad: float) -> None:
    with pytest.raises(GenrefineError, match="finite"):
        HBQ(4).encode(torch.tensor([0.1, bad]).reshape(1, 2, 1, 1, 1))


@pytest.mark.parametrize(("rounds", "layout"), [(0, "bit"), (17, "bit"), (True, "bit"), (4, "bits")])
def test_unknown_settings_are_refused(rounds: int, layout: str) -> None:
    with pytest.raises((GenrefineError, TypeError)):
        HBQ(rounds, layout)  # type: ignore[arg-type]


def test_codes_of_another_layout_are_refused() -> None:
    with pytest.raises(GenrefineError, match=r"0\.\.1"):
        HBQ(4, "bit").decode(torch.full((1, 4, 1, 1, 1), 7, dtype=torch.int32))
    with pytest.raises(GenrefineError, match="multiple of 4"):
        HBQ(4, "bit").decode(torch.zeros(1, 6, 1, 1, 1, dtype=torch.int32))
    with pytest.raises(GenrefineError, match="bytes"):
        unpack_bits(torch.zeros(1, 3, dtype=torch.uint8), (4, 1, 1, 1), 4)
    with pytest.raises(GenrefineError, match="fit 1 bits"):
        pack_bits(torch.full((1, 4), 2, dtype=torch.int32), 1)


@pytest.mark.parametrize(("rounds", "layout"), [(1, "bit"), (3, "bit"), (3, "index"), (8, "index"), (16, "bit")])
def test_what_is_expected_of_certain_codes_is_their_value(rounds: int, layout: str) -> None:
    hbq = HBQ(rounds, layout)  # type: ignore[arg-type]
    codes = torch.randint(
        hbq.code_classes, (2, hbq.code_channels(3), 1, 4, 5), generator=torch.Generator().manual_seed(1)
    ).int()
    certain = torch.nn.functional.one_hot(codes.long(), hbq.code_classes).float()
    assert torch.equal(hbq.expect(certain), hbq.decode(codes))


def test_expectation_is_the_mean_over_all_labels_and_needs_no_independence() -> None:
    """A joint law of the bits of one value has one expectation, whether it is read from labels or from marginals."""
    hbq = HBQ(3, "index")
    law = torch.rand(1, 2, 1, 2, 3, 8, generator=torch.Generator().manual_seed(2)).square()
    law = law / law.sum(-1, keepdim=True)
    values = hbq.decode(torch.arange(8).int().reshape(1, 8, 1))[0, :, 0]
    by_hand = (law * values).sum(-1)
    assert torch.allclose(hbq.expect(law), by_hand, atol=1e-6)
    ones = [(law * ((torch.arange(8) >> (2 - r)) & 1)).sum(-1) for r in range(3)]
    marginals = torch.cat(ones, dim=1)
    bits = torch.stack([1 - marginals, marginals], dim=-1)
    assert torch.allclose(HBQ(3, "bit").expect(bits), by_hand, atol=1e-6)


def test_probabilities_of_another_layout_are_refused() -> None:
    with pytest.raises(GenrefineError, match="16 classes, last; got 2"):
        HBQ(4, "index").expect(torch.full((1, 4, 1, 1, 2), 0.5))
    with pytest.raises(GenrefineError, match="multiple of 4"):
        HBQ(4, "bit").expect(torch.full((1, 6, 1, 1, 2), 0.5))
