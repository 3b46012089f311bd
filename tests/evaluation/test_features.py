"""Feature extractors, ours and a user's."""

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from genrefine.errors import GenrefineError
from genrefine.evaluation.features import EfficientNetFeatures, ProgramFeatures, collect_features
from genrefine.evaluation.frechet import frechet_distance


@pytest.fixture(scope="module")
def extractor() -> EfficientNetFeatures:
    return EfficientNetFeatures(input_size=32)


def _frames(count: int, side: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


class MeanAndSquare(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.cat([frames.mean(dim=(2, 3)), frames.square().mean(dim=(2, 3))], dim=1)


class Maps(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames * 2


def _export(network: nn.Module, path, side: int = 16):
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, side, side),), dynamic_shapes=sizes), path)
    return path


def test_bytes_and_floats_of_one_picture_have_the_same_features(extractor):
    frames = _frames(2)
    torch.testing.assert_close(extractor(frames), extractor(frames / 127.5 - 1))


def test_features_do_not_depend_on_the_batch(extractor):
    frames = _frames(5)
    torch.testing.assert_close(extractor(frames)[3:4], extractor(frames[3:4]), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_torchmetrics_accepts_the_extractor_and_agrees_with_our_frechet_distance(extractor):
    real, fake = _frames(6), _frames(5, seed=1) // 2
    frechet = FrechetInceptionDistance(feature=extractor)
    kernel = KernelInceptionDistance(feature=extractor, subsets=2, subset_size=4)
    for metric in (frechet, kernel):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    # Fewer pictures than features: torchmetrics' eigenvalues of a singular product are only good to some digits.
    assert frechet_distance(extractor(real), extractor(fake)) == pytest.approx(frechet.compute().item(), rel=0.02)
    assert kernel.compute()[0].isfinite()


def test_a_size_that_is_no_multiple_of_32_is_refused():
    with pytest.raises(GenrefineError, match="multiple of 32; got 100"):
        EfficientNetFeatures(input_size=100)


def test_the_description_names_network_size_and_scaling(extractor):
    assert extractor.description == "EfficientNet-Lite0 (ImageNet-1k), 1280 pooled features, 32 px, (x - 127) / 128"


def test_collected_features_keep_the_order_of_clips_and_frames(extractor):
    clips = _frames(6).view(3, 2, 3, 24, 24).transpose(1, 2) / 127.5 - 1
    found = collect_features(extractor, [clips[:2], clips[2:]])
    torch.testing.assert_close(found, extractor(_frames(6)), rtol=1e-4, atol=1e-4)


def test_no_pictures_at_all_are_refused(extractor):
    with pytest.raises(GenrefineError, match="at least one picture"):
        collect_features(extractor, [])


def test_a_users_program_gives_its_own_features_at_its_own_size(tmp_path):
    extractor = ProgramFeatures(_export(MeanAndSquare(), tmp_path / "own.pt2"), input_size=16)
    frames = _frames(3, side=16)
    torch.testing.assert_close(extractor(frames), MeanAndSquare()(frames / 127.5 - 1))
    assert extractor(_frames(3, side=40)).shape == (3, extractor.num_features) == (3, 6)
    assert extractor.description == "own.pt2, 6 features, 16 px"


def test_a_program_that_returns_maps_is_refused_when_it_is_opened(tmp_path):
    with pytest.raises(GenrefineError, match=r"one vector per frame") as caught:
        ProgramFeatures(_export(Maps(), tmp_path / "maps.pt2"), input_size=16)
    assert "got (2, 3, 16, 16)" in str(caught.value)


def test_a_program_of_another_input_size_is_refused_when_it_is_opened(tmp_path):
    with pytest.raises(GenrefineError, match=r"for \(2, 3, 32, 32\) it says"):
        ProgramFeatures(_export(MeanAndSquare(), tmp_path / "own.pt2"), input_size=32)
