"""FID's Inception-v3 against torch-fidelity's, and the files that the networks come in."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.evaluation.comparison import scores_of
from genrefine.evaluation.extractor_file import (
    InceptionFeatures,
    ScriptedClipFeatures,
    ScriptedFeatures,
    read_extractor,
)
from genrefine.evaluation.features import FeatureExtractor
from genrefine.evaluation.inception import read_inception, resized_like_tensorflow
from genrefine.media.pixels import from_uint8
from networks_of_scores import TinyI3D, TinyInception, inception_weights, save_script

# torch-fidelity 0.4.0, FeatureExtractorInceptionV3("2048", "logits_unbiased"), with the same weights and bytes: every
# 256th feature and every 200th logit. The two networks agreed in every bit where these were recorded.
FEATURES = [
    [0.0009323489503003657, 0.08599286526441574, 0.07514451444149017, 0.0, 7.539503574371338, 0.02140834741294384,
     3.209078311920166, 0.05885988473892212],
    [0.0, 0.15939679741859436, 0.04639729857444763, 0.0, 7.517715930938721, 0.02156870625913143, 3.3161513805389404,
     0.07199384272098541],
]  # fmt: skip
LOGITS = [
    [8.745280265808105, 9.644826889038086, -6.630268096923828, -1.3122806549072266, -4.190310478210449, -5.1725993156],
    [8.473522186279297, 9.638354301452637, -6.555938243865967, -1.2863121032714844, -4.217417240142822, -5.1418476105],
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights-inception.pth"
    torch.save(inception_weights(), path)
    return path


def loaded(path):
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        return torch.jit.load(str(path))


def frames():
    return torch.randint(256, (2, 3, 40, 56), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_features_and_logits_are_those_of_torch_fidelity(weights):
    network = InceptionFeatures(weights)
    features = network(frames())
    assert features.shape == (2, 2048)
    assert torch.allclose(features[:, ::256], torch.tensor(FEATURES), rtol=1e-3, atol=1e-4)
    assert torch.allclose(network.logits(features)[:, ::200], torch.tensor(LOGITS), rtol=1e-3, atol=1e-3)


def test_pictures_in_floats_are_rounded_to_bytes_first(weights):
    network = InceptionFeatures(weights)
    floats = from_uint8(frames()[:, None].permute(0, 1, 3, 4, 2))[:, :, 0]
    shaken = floats + 0.3 / 255 * torch.rand(floats.shape, generator=torch.Generator().manual_seed(2))
    assert torch.equal(network(floats), network(frames()))
    assert torch.equal(network(shaken), network(frames()))


def test_resizing_reads_from_the_place_times_the_scale():
    """TensorFlow 1 with corners not aligned: from 4 to 8, pixel 2k is pixel k and 2k + 1 lies between k and k + 1."""
    line = torch.tensor([0.0, 10.0, 20.0, 60.0])
    picture = line.expand(1, 1, 4, 4)
    resized = resized_like_tensorflow(picture, 8)
    assert resized[0, 0, 0].tolist() == [0, 5, 10, 15, 20, 40, 60, 60]
    assert torch.equal(resized_like_tensorflow(picture.mT, 8), resized.mT)
    assert torch.equal(resized_like_tensorflow(picture, 4), picture)


def test_a_file_says_what_it_is(weights, tmp_path):
    script = save_script(TinyInception(), tmp_path / "inception-2015-12-05.pt")
    for path, kind in ((weights, InceptionFeatures), (script, ScriptedFeatures)):
        found = read_extractor(path, 128)
        assert isinstance(found, kind)
        assert isinstance(found, FeatureExtractor)
        assert path.name in found.description
        assert "SHA-256" in found.description
    save_file(inception_weights(), tmp_path / "same.safetensors")
    assert torch.equal(
        read_extractor(tmp_path / "same.safetensors", 128)(frames()), read_extractor(weights, 8)(frames())
    )


def test_a_script_is_asked_for_features_of_bytes_and_its_classes_are_found(tmp_path):
    path = save_script(TinyInception(), tmp_path / "i.pt")
    network, direct = ScriptedFeatures(path), loaded(path)
    assert network.num_features == 12
    features = network(frames())
    assert torch.equal(features, direct(frames(), return_features=True))
    assert torch.allclose(network.logits(features), direct(frames(), no_output_bias=True), atol=1e-5)
    assert not torch.allclose(network.logits(features), direct(frames()), atol=1e-3)


def test_a_script_without_classes_gives_all_scores_but_one(tmp_path):
    class Headless(TinyInception):
        def forward(
            self, img: Tensor, use_fp16: bool = False, return_features: bool = False, no_output_bias: bool = False
        ) -> Tensor:
            x = torch.nn.functional.adaptive_avg_pool2d(img.float() / 255, [2, 2]).flatten(1)
            return torch.cat([x, x.square()], 1)

    network = read_extractor(save_script(Headless(), tmp_path / "pooled.pt"), 128)
    features = network(torch.randint(256, (120, 3, 8, 8), dtype=torch.uint8))
    scores = scores_of(network, features, features.flip(0), None, None, torch.Generator().manual_seed(0))
    assert scores.inception is None
    assert scores.manifold.precision == 1


def test_a_script_of_clips_gets_levels_and_scales_them_itself(tmp_path):
    path = save_script(TinyI3D(), tmp_path / "i3d_torchscript.pt")
    pixels = from_uint8(torch.randint(256, (2, 9, 16, 16, 3), dtype=torch.uint8))
    features = ScriptedClipFeatures(path)(pixels)
    assert features.shape == (2, 6)
    assert torch.allclose(features, loaded(path)(pixels, resize=True, return_features=True), atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path):
    own = inception_weights()
    cases = {
        "short": ({k: v for k, v in own.items() if k != "fc.bias"}, r"'fc.bias' must be \(1008,\); got nothing"),
        "other": (own | {"fc.weight": torch.zeros(1000, 2048)}, r"must be \(1008, 2048\); got \(1000, 2048\)"),
        "more": (own | {"AuxLogits.fc.weight": torch.zeros(1)}, "'AuxLogits.fc.weight' must be absent"),
        "list": ([1, 2], "other than named tensors"),
        "nested": ({"state": own}, "other than named tensors"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        with pytest.raises(GenrefineError, match=message):
            read_inception(path)
    counted = own | {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    torch.save(counted, tmp_path / "counted.pth")
    read_inception(tmp_path / "counted.pth")


def test_files_that_are_none_of_them_are_refused(tmp_path):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(GenrefineError, match="cannot be read"):
        read_extractor(broken, 128)
    with pytest.raises(GenrefineError, match="does not exist"):
        read_extractor(tmp_path / "nothing.pth", 128)
    with pytest.raises(GenrefineError, match="TorchScript file is expected"):
        ScriptedClipFeatures(broken)
    deaf = save_script(TinyI3D(), tmp_path / "i3d.pt")
    with pytest.raises(GenrefineError, match=r"must take .* it says"):
        ScriptedFeatures(deaf)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(GenrefineError, match="cannot be read"):
        read_extractor(tmp_path / "evil.pth", 128)
    assert not (tmp_path / "ran").exists()
