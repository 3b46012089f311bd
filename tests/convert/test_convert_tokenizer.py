"""The published tokenizer through the converter: activations, latents and pixels, both manifests, refusals."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from genrefine.convert import Hints, convert
from genrefine.convert.tokenizer import infer_config, rename, tokenizer_from_weights
from genrefine.convert.translation import translate
from genrefine.errors import GenrefineError
from genrefine.tokenizer import PUBLISHED, VisualTokenizer

GOLDENS = Path(__file__).parents[1] / "goldens"
MANIFESTS = json.loads(gzip.decompress((GOLDENS / "manifests/tokenizers.json.gz").read_bytes()))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDENS / "tokenizer.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def weights(golden):
    return {key[2:]: tensor for key, tensor in golden.items() if key.startswith("w.")}


@pytest.fixture(scope="module")
def tokenizer(weights):
    return tokenizer_from_weights(weights)


def clip_of(golden, name):
    """Return the input; the published network drops frames beyond 1 + 4k without a word, ours refuses them."""
    pixels = golden[f"{name}.x"]
    pixels = pixels[:, :, None] if pixels.ndim == 4 else pixels
    return pixels[:, :, : 1 + (pixels.shape[2] - 1) // 4 * 4]


@pytest.mark.parametrize("name", ["image", "clip9", "clip8"])
@torch.no_grad()
def test_latents_and_pixels_are_the_published_ones(golden, tokenizer, name):
    latents = tokenizer.latents(clip_of(golden, name))
    torch.testing.assert_close(latents, golden[f"{name}.z"], **CLOSE)
    quantized = tokenizer.hbq.decode(tokenizer.hbq.encode(latents))
    assert torch.equal(quantized, golden[f"{name}.zq"])
    torch.testing.assert_close(tokenizer.decode_latents(golden[f"{name}.z"]), golden[f"{name}.dec_z"], **CLOSE)
    torch.testing.assert_close(tokenizer.decode(tokenizer.hbq.encode(latents)), golden[f"{name}.dec_zq"], **CLOSE)


@torch.no_grad()
def test_activations_of_the_first_frame_are_the_published_ones(golden, tokenizer):
    seen = {}
    for half, short, direction in ((tokenizer.encoder, "enc", "down"), (tokenizer.decoder, "dec", "up")):
        watched = {"conv1": half.conv_in, "middle1_attn": half.middle.attention, "head": half.conv_out}
        watched |= {f"{direction}{i}": stage for i, stage in enumerate(half.stages)}
        for name, module in watched.items():
            key = f"clip9.act.{short}.{name}"
            module.register_forward_hook(lambda _, __, output, key=key: seen.__setitem__(key, output))
    tokenizer.latents(golden["clip9.x"][:, :, :1])
    tokenizer.decode_latents(golden["clip9.z"][:, :, :1])
    recorded = [key for key in golden if key.startswith("clip9.act.")]
    assert len(recorded) == 13
    for key in recorded:
        torch.testing.assert_close(seen[key], golden[key], **CLOSE)


@pytest.mark.parametrize("name", MANIFESTS)
def test_published_sizes_have_exactly_the_published_weights(name):
    published = {key: torch.empty(shape, device="meta") for key, shape in MANIFESTS[name]["shapes"].items()}
    ours = translate(published, rename)
    with torch.device("meta"):
        inferred, preset = VisualTokenizer(**infer_config(ours)), VisualTokenizer(**PUBLISHED[name])
    assert len(ours) == 196
    for tokenizer in (inferred, preset):
        assert {k: v.shape for k, v in tokenizer.state_dict().items()} == {k: v.shape for k, v in ours.items()}
        assert sum(p.numel() for p in tokenizer.parameters()) == MANIFESTS[name]["total"]


@pytest.mark.parametrize(("names", "used"), [(("vae", "ema"), "ema"), (("vae",), "vae")])
def test_averaged_weights_are_used_where_there_are_any(weights, tmp_path, names, used):
    content = {name: {key: tensor + i for key, tensor in weights.items()} for i, name in enumerate(names)}
    torch.save(content, tmp_path / "published.ckpt")
    made = convert(tmp_path / "published.ckpt", tmp_path / "ours", hints=Hints(layout="index"))
    assert made.notes[0] == f"visual tokenizer: weights '{used}' of the file"
    loaded = VisualTokenizer.from_pretrained(tmp_path / "ours")
    assert torch.equal(loaded.conv_quant.bias, content[used]["conv1.bias"])
    assert (loaded.code_channels, loaded.code_classes) == (4, 16)


def test_missing_and_unknown_weights_are_named(weights):
    without = {key: tensor for key, tensor in weights.items() if key != "decoder.middle.1.proj.bias"}
    with pytest.raises(
        GenrefineError, match=r"missing: decoder\.middle\.1\.proj\.bias \(here decoder\.\S+\.layer\.proj\.bias\)"
    ):
        tokenizer_from_weights(without)
    for key in ("quantizer.bias", "encoder.middle.1.gate.bias", "encoder.middle.3.residual.0.gamma"):
        with pytest.raises(GenrefineError, match=f"keys that the published network does not: {key}"):
            tokenizer_from_weights({**weights, key: torch.ones(1)})
    with pytest.raises(GenrefineError, match=r"it has no encoder\.conv1\.weight \(here encoder\.conv_in\.weight\)"):
        tokenizer_from_weights({"conv1.bias": torch.ones(1)})


def test_latents_without_tanh_are_those_before_it(weights, golden):
    bounded, unbounded = (tokenizer_from_weights(weights, bounded=bounded) for bounded in (True, False))
    with torch.no_grad():
        latents = unbounded.latents(golden["clip9.x"])
    assert torch.equal(torch.tanh(latents), bounded.latents(golden["clip9.x"]))
    far = unbounded.hbq.decode(unbounded.hbq.encode(3 * latents.sign()))
    assert torch.equal(far, latents.sign() * (1 - 2.0**-4))
    assert bounded.fingerprint() != unbounded.fingerprint()
