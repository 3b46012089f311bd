"""Weights are written piece by piece as the format's own library reads them, and read back."""

import gc
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tqdm.auto import tqdm

from genrefine.convert import Hints, convert, weights_file
from genrefine.convert.weights_file import verify_weights, write_weights
from genrefine.errors import GenrefineError


def published_text_weights(width, hidden, depth=2):
    """Return weights of a text network under published names, random and cheap."""
    linear = {"text_proj": (width, 24), "word_embed": (width, 32), "head.proj": (32, width)}
    linear |= {"pt_embedder.mlp.0": (width, 256), "pt_embedder.mlp.2": (width, width)}
    shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()} | {"head.norm.weight": (width,)}
    block = {f"attn.{name}_proj": (width, width) for name in "qkvo"}
    block |= {"mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width), "mlp.down_proj": (width, hidden)}
    block |= {"input_layernorm": (width,), "post_attention_layernorm": (width,), "attn.q_norm": (64,)}
    for name, shape in (block | {"attn.k_norm": (64,)}).items():
        shapes |= {f"block_chunks.{index}.module.0.{name}.weight": shape for index in range(depth)}
    return {name: torch.rand(shape) for name, shape in shapes.items()}


def some_weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "matrix": torch.randn(7, 5, generator=generator),
        "transposed": torch.randn(3, 4, generator=generator).T,
        "half": torch.randn(11, generator=generator).bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_the_library_reads_what_was_written(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(weights_file, "PIECE", 4)
    weights, seen = some_weights(), []
    write_weights(tmp_path / "a.safetensors", weights, dtype, seen.append)
    loaded = load_file(tmp_path / "a.safetensors")
    assert set(loaded) == set(weights)
    for name, tensor in weights.items():
        assert loaded[name].dtype == (dtype or tensor.dtype)
        assert torch.equal(loaded[name], tensor.to(dtype or tensor.dtype))
    assert sum(seen) == sum(tensor.nbytes for tensor in loaded.values())
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    verify_weights(tmp_path / "a.safetensors", weights, dtype)


def test_every_changed_byte_is_noticed_when_reading_back(tmp_path):
    weights = some_weights()
    write_weights(tmp_path / "a.safetensors", weights)
    whole = (tmp_path / "a.safetensors").read_bytes()
    size = sum(tensor.nbytes for tensor in weights.values())
    for place in range(len(whole) - size, len(whole), 3):
        (tmp_path / "a.safetensors").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(GenrefineError, match="is not what was written"):
            verify_weights(tmp_path / "a.safetensors", weights)
    for content, message in ((whole[:-1], "not what was written"), (whole + b"x", "longer than what was written")):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(GenrefineError, match=message):
            verify_weights(tmp_path / "a.safetensors", weights)
    (tmp_path / "a.safetensors").write_bytes(whole)
    with pytest.raises(GenrefineError, match="does not hold the weights"):
        verify_weights(tmp_path / "a.safetensors", {**weights, "more": torch.ones(1)})


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (float("nan"), None, "one of 'b' is NaN or infinite"),
        (float("inf"), None, "one of 'b' is NaN or infinite"),
        (1e30, torch.float16, "one of 'b' is too large for torch.float16"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, value, dtype, message):
    with pytest.raises(GenrefineError, match=message):
        write_weights(tmp_path / "a", {"a": torch.ones(2), "b": torch.tensor([1.0, value])}, dtype)


def anonymous_megabytes():
    """Return the memory of this process that is no map of a file."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_converting_needs_little_memory_above_the_mapped_file(tmp_path, monkeypatch):
    """It grows by less than 1.3 times the largest weight, where the whole is more than five times as large."""
    peak, update = [0.0], tqdm.update

    def watched(bar, count=1):
        peak[0] = max(peak[0], anonymous_megabytes())
        return update(bar, count)

    sizes = {}
    for name, width, hidden in (("small", 64, 64), ("large", 384, 8192)):
        weights = published_text_weights(width, hidden)
        sizes[name] = [tensor.nbytes / 2**20 for tensor in weights.values()]
        torch.save(weights, tmp_path / f"{name}.pth")
        del weights
    assert sum(sizes["large"]) > 5 * max(sizes["large"]) > 50
    convert(
        tmp_path / "small.pth", tmp_path / "first", hints=Hints(attention="joint", code_classes=2)
    )  # whatever the first call costs
    gc.collect()
    monkeypatch.setattr(tqdm, "update", watched)
    before = anonymous_megabytes()
    convert(tmp_path / "large.pth", tmp_path / "second", hints=Hints(attention="joint", code_classes=2))
    assert peak[0] - before < 1.3 * max(sizes["large"])
