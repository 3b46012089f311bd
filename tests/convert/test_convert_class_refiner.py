"""Published class refiners through the converter: activations, logits, loss and gradients, every manifest, refusals."""

import argparse
import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.convert import Hints, convert
from genrefine.convert.class_refiner import (
    class_refiner_from_weights,
    find_code_classes,
    infer_config,
    rename,
    translate_weights,
)
from genrefine.convert.networks import recognize
from genrefine.errors import GenrefineError
from genrefine.refiner import ClassRefiner, class_refiner_config

GOLDENS = Path(__file__).parents[1] / "goldens"
MANIFESTS = json.loads(gzip.decompress((GOLDENS / "manifests/class_refiners.json.gz").read_bytes()))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def load_golden(name):
    """Return tensors, metadata and the weights of a golden file."""
    with safe_open(GOLDENS / f"class_refiner_{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, file.metadata(), {key[2:]: t for key, t in tensors.items() if key.startswith("w.")}


@pytest.mark.parametrize("layout", ["index", "bit"])
def test_activations_and_logits_are_the_published_ones(layout):
    golden, metadata, weights = load_golden(layout)
    refiner = class_refiner_from_weights(weights, int(metadata["classes"]), in_context_start=1)
    seen = {}
    watched = {"t_emb": refiner.signal_embedding, "y_emb": refiner.class_embedding, "x_embed": refiner.code_embedding}
    watched |= {f"block{i}": block for i, block in enumerate(refiner.blocks)} | {"final": refiner.head}
    for name, module in watched.items():
        module.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(f"act.{name}", output))
    condition = ClassCondition(golden["in.y"], 10)
    with torch.no_grad():
        logits = refiner(golden["in.labels"][:, :, None], golden["in.t"], condition)
    for name, activation in seen.items():
        torch.testing.assert_close(activation, golden[name], **CLOSE)
    assert len(seen) == 8
    torch.testing.assert_close(logits[:, :, 0], golden["out.logits"].movedim(1, -1), **CLOSE)


def test_loss_and_gradients_are_the_published_ones():
    """Label dropout, signal law and corruption are replayed from the recorded draws."""
    golden, metadata, weights = load_golden("training")
    # The recording moved every parameter by 0.01 between the loss and the weights it stored, to show the EMA's effect.
    weights = {key: tensor - 0.01 for key, tensor in weights.items()}
    refiner = class_refiner_from_weights(weights, int(metadata["classes"]), in_context_start=1).train()
    condition = ClassCondition(golden["in.y"], 10).dropped(golden["draw.drop_uniform"] < 0.4)
    signal = torch.sigmoid(golden["draw.t_normal"] * 0.8 - 0.8)
    kept = golden["draw.mask_uniform"] < signal.view(-1, 1, 1, 1)
    noisy = torch.where(kept, golden["in.x"], golden["draw.random_labels"])
    logits = refiner(noisy[:, :, None], signal, condition)
    loss = F.cross_entropy(logits.flatten(0, -2), golden["in.x"].flatten().long())
    torch.testing.assert_close(loss, golden["out.loss"], atol=1e-6, rtol=1e-6)
    loss.backward()
    ours = dict(refiner.named_parameters())
    recorded = {key.removeprefix("grad.net."): g for key, g in golden.items() if key.startswith("grad.")}
    assert len(recorded) == 11
    for key, gradient in recorded.items():
        torch.testing.assert_close(ours[str(rename(key))].grad, gradient.view(ours[str(rename(key))].shape), **CLOSE)


@pytest.mark.parametrize("name", MANIFESTS)
def test_published_sizes_have_exactly_the_published_weights(name):
    """Every key and shape, and the parameter counts of the paper's table, on the meta device."""
    size, layout = name.split("-")
    manifest = MANIFESTS[name]
    published = {key: torch.empty(shape, device="meta") for key, shape in manifest["shapes"].items()}
    ours = translate_weights(published)
    config = class_refiner_config(size, layout)
    inferred = infer_config(ours, config["code_classes"])
    assert inferred == {**config, "mlp_ratio": 4.0}
    assert tuple(ours.pop("pos_embed").shape) == (1, 256, config["width"])
    with torch.device("meta"):
        refiner = ClassRefiner(**config)
    assert {k: v.shape for k, v in refiner.state_dict().items()} == {k: v.shape for k, v in ours.items()}
    assert len(ours) == len(published) - 1
    assert sum(p.numel() for p in refiner.parameters()) == manifest["trainable"]
    assert manifest["trainable"] == manifest["total"] - 256 * config["width"]


@pytest.fixture
def checkpoint(tmp_path):
    """Write a checkpoint as published: three sets of weights and an argparse.Namespace."""
    _, _, weights = load_golden("bit")
    nets = {f"net.{key}": tensor for key, tensor in weights.items()}
    ema = {key: tensor if "pos_embed" in key else tensor + 1 for key, tensor in nets.items()}
    arguments = argparse.Namespace(model="tiny", method="GRN_bit", hbq_round=4)
    content = {"model": nets, "model_ema1": ema, "model_ema2": nets, "optimizer": {}, "epoch": 3, "args": arguments}
    torch.save(content, tmp_path / "published.pth")
    return tmp_path / "published.pth", content


def rewrite(checkpoint, **changes):
    path, content = checkpoint
    torch.save({**content, **changes}, path)
    return path


def converted(path, folder, **hints):
    convert(path, folder, hints=Hints(**{"in_context_start": 1, **hints}), quiet=True)
    return ClassRefiner.from_pretrained(folder)


def test_a_published_file_becomes_a_folder_of_safetensors(checkpoint, tmp_path):
    path, content = checkpoint
    loaded = converted(path, tmp_path / "ours")
    names = sorted(file.name for file in (tmp_path / "ours").iterdir())
    assert names == ["checksums.json", "config.json", "diffusion_pytorch_model.safetensors"]
    assert (loaded.config.code_channels, loaded.config.code_classes, loaded.config.num_heads) == (16, 2, 4)
    assert torch.equal(loaded.head.linear.bias, content["model_ema1"]["net.final_layer.linear.bias"])


def test_other_weights_of_the_file_can_be_chosen(checkpoint, tmp_path):
    path, content = checkpoint
    convert(path, tmp_path / "ours", weights="model", hints=Hints(in_context_start=1))
    refiner = ClassRefiner.from_pretrained(tmp_path / "ours")
    assert torch.equal(refiner.head.linear.bias, content["model"]["net.final_layer.linear.bias"])
    with pytest.raises(GenrefineError, match="weights under 'vae'; it has model_ema1, model_ema2, model"):
        convert(path, tmp_path / "other", weights="vae")


def test_missing_unknown_and_misshapen_weights_are_named(checkpoint, tmp_path):
    weights = checkpoint[1]["model_ema1"]
    without = {key: tensor for key, tensor in weights.items() if key != "net.blocks.2.mlp.w3.bias"}
    gate, positions = "net.blocks.0.attn.gate", weights["net.pos_embed"]
    cases = {
        "missing: net.blocks.2.mlp.w3.bias (here blocks.2.mlp.output.bias); unexpected: none": without,
        "a class refiner, but it has keys that the published network does not: net.blocks.0.attn.gate": {
            **weights,
            gate: torch.ones(1),
        },
        "net.final_layer.linear.bias (here head.linear.bias) is (31,), not (32,)": {
            **weights,
            "net.final_layer.linear.bias": torch.zeros(31),
        },
        "it differs by 1;": {**weights, "net.pos_embed": positions + 1},
        "it has no pos_embed": {"net.blocks.0.norm1.weight": torch.ones(64)},
        "two keys for one weight, 'net.pos_embed' and 'pos_embed'": {**weights, "pos_embed": positions},
        "one of 'head.linear.bias' is NaN": {**weights, "net.final_layer.linear.bias": torch.full((32,), torch.nan)},
        "no published network has these keys: a.weight, b.weight, c.weight and 1 more": {
            f"{name}.weight": torch.ones(1) for name in "abcd"
        },
    }
    for message, state in cases.items():
        path = rewrite(checkpoint, model_ema1=state)
        with pytest.raises(GenrefineError, match=re.escape(message)):
            converted(path, tmp_path / "ours")
        assert [entry.name for entry in tmp_path.iterdir()] == ["published.pth"]


def test_what_shapes_do_not_tell_must_be_known(checkpoint, tmp_path):
    path, _ = checkpoint
    with pytest.raises(GenrefineError, match="no published size has depth 4 and width 64; give in_context_start"):
        converted(path, tmp_path / "ours", in_context_start=None)
    with pytest.raises(GenrefineError, match="code_classes is 2 by the checkpoint's training arguments; got 4"):
        converted(path, tmp_path / "ours", code_classes=4)
    rewrite(checkpoint, args=argparse.Namespace(method="GRN_ind", hbq_round=2))
    indexed = converted(path, tmp_path / "ours")
    assert (indexed.config.code_channels, indexed.config.code_classes) == (8, 4)
    rewrite(checkpoint, args=None)
    with pytest.raises(GenrefineError, match="no training arguments"):
        converted(path, tmp_path / "more")
    with pytest.raises(GenrefineError, match="code_classes must divide the 32 one-hot channels; got 5"):
        converted(path, tmp_path / "more", code_classes=5)
    for wrong in ({"attention": "joint"}, {"rounds": 3}):
        with pytest.raises(GenrefineError, match="says nothing about a class refiner; leave it out"):
            converted(path, tmp_path / "more", code_classes=2, **wrong)


@pytest.mark.parametrize("name", MANIFESTS)
def test_published_sizes_need_no_word_of_the_caller(name):
    """Layout and in-context start follow from shapes alone, without the training arguments."""
    size, layout = name.split("-")
    state = {key: torch.empty(shape, device="meta") for key, shape in MANIFESTS[name]["shapes"].items()}
    ours = translate_weights(state)
    config = class_refiner_config(size, layout)
    assert find_code_classes(ours, None, None)[0] == config["code_classes"]
    assert infer_config(ours, config["code_classes"])["in_context_start"] == config["in_context_start"]
    assert recognize(state) == "class refiner"


def test_other_number_formats_are_kept_or_written_as_asked(checkpoint, tmp_path):
    weights = checkpoint[1]["model_ema1"]
    path = rewrite(checkpoint, model_ema1={key: tensor.bfloat16() for key, tensor in weights.items()})
    for name, asked, expected in (("kept", None, torch.bfloat16), ("wide", torch.float32, torch.float32)):
        convert(path, tmp_path / name, hints=Hints(in_context_start=1), dtype=asked)
        written = load_file(tmp_path / name / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in written.values()} == {expected}
    mixed = {key: tensor.bfloat16() if tensor.ndim > 1 else tensor for key, tensor in weights.items()}
    with pytest.raises(GenrefineError, match="mixes bfloat16 and float32; choose the format"):
        converted(rewrite(checkpoint, model_ema1=mixed), tmp_path / "mixed")


@pytest.mark.parametrize("rounds", ["three", [3], 10**6, 0, -1, True, 2.0])
def test_training_arguments_of_odd_types_end_in_one_line(checkpoint, tmp_path, rounds):
    path = rewrite(checkpoint, args=argparse.Namespace(method="GRN_ind", hbq_round=rounds))
    with pytest.raises(GenrefineError, match="hbq_round in the file's training arguments must be from 1 to 16"):
        converted(path, tmp_path / "ours")


@pytest.mark.parametrize(
    ("name", "value"),
    [("code_classes", True), ("code_classes", 1), ("rounds", 10**6), ("layout", "bits"), ("attention", "May"),
     ("in_context_start", -1)],
)  # fmt: skip
def test_hints_of_no_sense_end_in_one_line(name, value):
    with pytest.raises(GenrefineError, match=f"{name} must be .*; got '{value}'; correct it"):
        Hints(**{name: value})
