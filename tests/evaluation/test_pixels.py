"""PSNR and SSIM."""

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from genrefine.errors import GenrefineError
from genrefine.evaluation.pixels import mean_squared_error, psnr, psnr_of_error, ssim


def _pair(batch: int = 3, frames: int = 2, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    original = torch.rand(batch, 3, frames, side, side, generator=generator) * 2 - 1
    noise = torch.randn(original.shape, generator=generator) * torch.tensor([0.05, 0.1, 0.3])[:batch].view(
        -1, 1, 1, 1, 1
    )
    return original + noise, original


def test_psnr_equals_that_of_torchmetrics_for_every_frame():
    noisy, original = _pair()
    expected = [
        sum(peak_signal_noise_ratio(n[:, f].clamp(-1, 1), o[:, f], data_range=2.0).item() for f in range(2)) / 2
        for n, o in zip(noisy, original, strict=True)
    ]
    assert psnr(noisy, original).tolist() == pytest.approx(expected, rel=1e-4)


def test_a_known_error_has_its_known_psnr():
    original = torch.zeros(1, 3, 1, 16, 16)
    assert psnr(original + 0.2, original).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr_of_error(float(mean_squared_error(original + 0.2, original))) == pytest.approx(20.0, abs=1e-4)


def test_equal_pictures_have_infinite_psnr_and_ssim_one():
    _, original = _pair()
    assert psnr(original, original).tolist() == [math.inf] * 3
    assert psnr_of_error(0.0) == math.inf
    assert ssim(original, original).tolist() == pytest.approx([1.0] * 3)


def test_ssim_equals_that_of_torchmetrics_on_pictures_in_zero_to_one():
    noisy, original = _pair(frames=1)
    expected = structural_similarity_index_measure(
        (noisy[:, :, 0].clamp(-1, 1) + 1) / 2, (original[:, :, 0] + 1) / 2, data_range=1.0, reduction="none"
    )
    torch.testing.assert_close(ssim(noisy, original), expected)


def test_ssim_of_a_clip_is_the_mean_over_its_frames():
    noisy, original = _pair(frames=3)
    by_frame = torch.stack([ssim(noisy[:, :, f : f + 1], original[:, :, f : f + 1]) for f in range(3)]).mean(0)
    torch.testing.assert_close(ssim(noisy, original), by_frame)


def test_more_noise_means_lower_values():
    noisy, original = _pair()
    for values in (psnr(noisy, original).tolist(), ssim(noisy, original).tolist()):
        assert values == sorted(values, reverse=True)


def test_values_outside_the_range_are_clipped_before_comparing():
    original = torch.ones(1, 3, 1, 16, 16)
    assert psnr(original + 5, original).item() == math.inf


def test_a_picture_below_the_window_is_refused():
    with pytest.raises(GenrefineError, match="11 pixels"):
        ssim(torch.zeros(1, 3, 1, 8, 8), torch.zeros(1, 3, 1, 8, 8))
