"""Perceptual distances over EfficientNet-Lite0 and over a user's own network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genrefine.errors import GenrefineError
from genrefine.evaluation.perceptual import (
    EfficientNetPerceptual,
    NamedPerceptual,
    ProgramPerceptual,
    ScriptedPerceptual,
    map_distance,
)
from networks_of_scores import TinyI3D, TinyVgg, save_script


@pytest.fixture(scope="module")
def distance() -> EfficientNetPerceptual:
    return EfficientNetPerceptual()


def _pixels(batch: int, frames: int = 1, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TwoMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        first = self.conv(frames)
        return [first, F.avg_pool2d(first, 2)]


class OneVector(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.mean(dim=(2, 3))


def _export(network: nn.Module, path, side: int = 32):
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(network, (torch.zeros(2, 3, side, side),), dynamic_shapes=({0: batch},)), path
    )
    return path


def test_equal_clips_have_distance_zero_and_the_order_does_not_matter(distance):
    a, b = _pixels(2, frames=2), _pixels(2, frames=2, seed=1)
    assert distance(a, a.clone()) == 0
    torch.testing.assert_close(distance(a, b), distance(b, a))


def test_distance_grows_with_the_disturbance(distance):
    a = torch.linspace(-1, 1, 32).expand(2, 3, 1, 32, 32)
    distances = [distance(a, (a + s * _pixels(2, seed=3)).clamp(-1, 1)).item() for s in (0.05, 0.2, 0.8)]
    assert 0 < distances[0] < distances[1] < distances[2] < 4 * 4


def test_a_clip_is_compared_frame_by_frame(distance):
    a, b = _pixels(1, frames=3), _pixels(1, frames=3, seed=1)
    frames = torch.stack([distance(a[:, :, i : i + 1], b[:, :, i : i + 1]) for i in range(3)])
    torch.testing.assert_close(distance(a, b), frames.mean())


def test_gradients_reach_the_pixels_and_nothing_else(distance):
    a = _pixels(1).requires_grad_()
    distance(a, _pixels(1, seed=1)).backward()
    assert a.grad.isfinite().all()
    assert a.grad.abs().amax() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in distance.parameters())


def test_descending_the_distance_brings_the_pictures_closer(distance):
    target, moved = torch.zeros(1, 3, 1, 32, 32), _pixels(1).requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=0.05)
    start = distance(moved, target).item()
    for _ in range(10):
        optimizer.zero_grad()
        distance(moved, target).backward()
        optimizer.step()
    assert distance(moved, target).item() < 0.9 * start


def test_training_mode_changes_nothing(distance):
    a, b = _pixels(1), _pixels(1, seed=1)
    torch.testing.assert_close(distance.train()(a, b), distance.eval()(a, b), rtol=0, atol=0)


def test_bfloat16_autocast_stays_near_float32(distance):
    a, b = _pixels(2), _pixels(2, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        half = distance(a, b)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(distance(a, b).item(), rel=0.05)


def test_map_distance_equals_the_sum_over_cosines():
    # |u - v|^2 = 2 - 2 cos(u, v) for unit vectors.
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 5, 3, 3, generator=generator) for _ in range(2))
    torch.testing.assert_close(map_distance([a], [b]), (2 - 2 * F.cosine_similarity(a, b, dim=1)).mean())


def test_a_position_without_any_feature_has_no_nan_gradient():
    a = torch.zeros(1, 4, 2, 2, requires_grad=True)
    map_distance([a], [torch.ones(1, 4, 2, 2)]).backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("blocks", [(), (16,), (-1, 2), (3, 3)])
def test_impossible_blocks_are_refused(blocks):
    with pytest.raises(GenrefineError, match="different numbers in"):
        EfficientNetPerceptual(blocks=blocks)


def test_a_users_program_gives_the_distance_of_its_own_maps(tmp_path):
    torch.manual_seed(0)
    network = TwoMaps().eval()
    distance = ProgramPerceptual(_export(network, tmp_path / "maps.pt2"))
    a, b = _pixels(3, frames=2).requires_grad_(), _pixels(3, frames=2, seed=1)
    frames_a, frames_b = (x.transpose(1, 2).flatten(0, 1) for x in (a, b))
    torch.testing.assert_close(distance(a, b), map_distance(network(frames_a), network(frames_b)))
    distance.train()(a, b).backward()
    assert a.grad.abs().amax() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_a_program_that_returns_no_maps_is_refused(tmp_path):
    distance = ProgramPerceptual(_export(OneVector(), tmp_path / "vector.pt2"))
    with pytest.raises(GenrefineError, match=r"list of maps .* got a tensor \(2, 3\)"):
        distance(_pixels(2), _pixels(2))


def test_a_program_that_refuses_the_picture_size_says_so_in_one_line(tmp_path):
    distance = ProgramPerceptual(_export(TwoMaps(), tmp_path / "maps.pt2", side=32))
    with pytest.raises(GenrefineError, match=r"for \(2, 3, 64, 64\) it says") as caught:
        distance(_pixels(2, side=64), _pixels(2, side=64))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(GenrefineError, match="does not exist"):
        ProgramPerceptual(tmp_path / "none.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(GenrefineError, match="is not one"):
        ProgramPerceptual(tmp_path / "text.pt2")


def test_lpips_is_the_squared_distance_of_the_vectors_of_a_script(tmp_path):
    path = save_script(TinyVgg(), tmp_path / "vgg16.pt")
    distance = ScriptedPerceptual(path)
    a, b = (torch.rand(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in (1, 2))
    assert isinstance(distance, NamedPerceptual)
    assert "vgg16.pt, SHA-256" in distance.description
    levels = [(one.movedim(2, 1).flatten(0, 1) + 1) * 127.5 for one in (a, b)]
    vectors = [distance.network(one, resize_images=False, return_lpips=True) for one in levels]
    assert float(distance(a, b)) == pytest.approx(float((vectors[0] - vectors[1]).square().sum(1).mean()))
    assert float(distance(a, a)) == 0
    with pytest.raises(GenrefineError, match=r"must take .* it says"):
        ScriptedPerceptual(save_script(TinyI3D(), tmp_path / "i3d.pt"))(a, b)


def test_pictures_that_are_too_small_are_refused_in_words():
    with pytest.raises(GenrefineError, match=r"pictures of 16 pixels a side; got 12 x 20; leave it out"):
        EfficientNetPerceptual()(torch.zeros(1, 3, 1, 20, 12), torch.zeros(1, 3, 1, 20, 12))
    assert float(EfficientNetPerceptual()(torch.zeros(1, 3, 1, 16, 16), torch.zeros(1, 3, 1, 16, 16))) == 0
