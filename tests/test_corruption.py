"""The forward process and the laws of the training signal."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from genrefine.corruption import LogitNormalSignal, corrupt, shift_signal
from genrefine.errors import GenrefineError

SHIFTS = json.loads((Path(__file__).parent / "goldens" / "signal_shift.json").read_text())["rows"]


def codes_of(seed, num_classes=16, shape=(2, 4, 1, 16, 16)):
    return torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def test_noisy_codes_are_the_clean_ones_where_kept_and_noise_elsewhere():
    codes = codes_of(0)
    out = corrupt(codes, torch.tensor([0.3, 0.8]), 16, torch.Generator().manual_seed(1))
    assert torch.equal(out.noisy, torch.where(out.kept, codes, out.noise))
    assert out.noisy.dtype == codes.dtype


def test_signal_zero_is_noise_and_signal_one_is_clean():
    codes = codes_of(0)
    out = corrupt(codes, torch.tensor([0.0, 1.0]), 16, torch.Generator().manual_seed(1))
    assert not out.kept[0].any()
    assert torch.equal(out.noisy[1], codes[1])


def test_each_code_is_kept_with_the_probability_of_its_own_sample_independently():
    codes = codes_of(0, shape=(2, 4, 1, 64, 64))
    kept = corrupt(codes, torch.tensor([0.25, 0.7]), 16, torch.Generator().manual_seed(2)).kept.double()
    assert kept.mean(dim=(1, 2, 3, 4)).tolist() == pytest.approx([0.25, 0.7], abs=0.02)
    # Channels of one position fall independently: there is no mask over positions.
    pairs = (kept[0, 0] * kept[0, 1]).mean()
    assert pairs.item() == pytest.approx(0.25**2, abs=0.015)


def test_noise_is_uniform_over_the_classes():
    noise = corrupt(codes_of(0), torch.tensor([0.0, 0.0]), 16, torch.Generator().manual_seed(3)).noise
    assert stats.chisquare(torch.bincount(noise.flatten(), minlength=16).numpy()).pvalue > 1e-4


def test_the_same_generator_state_corrupts_alike():
    first, second = (
        corrupt(codes_of(0), torch.full((2,), 0.5), 16, torch.Generator().manual_seed(4)).noisy for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("row", SHIFTS, ids=lambda row: f"shift {row['alpha']}")
def test_shift_agrees_with_the_published_code(row):
    shifted = shift_signal(torch.tensor(row["pt"], dtype=torch.float64), float(row["alpha"]))
    torch.testing.assert_close(shifted, torch.tensor(row["out"], dtype=torch.float64), atol=1e-12, rtol=0)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0, 1))
def test_shifts_compose_by_multiplication_and_keep_the_ends(first, second, signal):
    at = torch.tensor([signal, 0.0, 1.0], dtype=torch.float64)
    twice = shift_signal(shift_signal(at, first), second)
    torch.testing.assert_close(twice, shift_signal(at, first * second), atol=1e-9, rtol=1e-9)
    assert twice[1:].tolist() == [0.0, 1.0]


def test_logit_normal_signals_follow_their_law():
    law = LogitNormalSignal(mean=-1.3, std=1.3)
    signal = law.sample(20_000, torch.Generator().manual_seed(5)).double()
    assert stats.kstest(torch.logit(signal).numpy(), "norm", args=(-1.3, 1.3)).pvalue > 1e-4


def test_a_shifted_law_is_noisier():
    plain = LogitNormalSignal().sample(500, torch.Generator().manual_seed(7))
    shifted = LogitNormalSignal(shift=3.0).sample(500, torch.Generator().manual_seed(7))
    torch.testing.assert_close(shifted, shift_signal(plain, 3.0))
    assert (shifted < plain).all()


def test_the_default_law_is_that_of_the_class_models():
    normal = torch.randn(9, generator=torch.Generator().manual_seed(6))
    signal = LogitNormalSignal().sample(9, torch.Generator().manual_seed(6))
    torch.testing.assert_close(signal, torch.sigmoid(normal * 0.8 - 0.8))


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan"), float("inf")])
def test_a_shift_must_be_positive(shift):
    for make in (LogitNormalSignal, lambda shift: shift_signal(torch.zeros(1), shift)):
        with pytest.raises(GenrefineError, match="shift"):
            make(shift=shift)


@pytest.mark.parametrize(("mean", "std"), [(0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_signal_law_must_be_a_law(mean, std):
    with pytest.raises(GenrefineError, match="std"):
        LogitNormalSignal(mean, std)
