"""Published text checkpoints: every name, every container, and what the file cannot tell."""

import gzip
import json

import pytest
import torch
from safetensors.torch import load_file
from tests.text_goldens import GOLDENS, load_golden

from genrefine.conditioning.text_condition import TextCondition
from genrefine.convert import Hints, convert, network_from_weights
from genrefine.convert.text_refiner import infer_config, rename, translate_weights
from genrefine.errors import GenrefineError
from genrefine.refiner.text_refiner import TextRefiner

GOLDEN = load_file(GOLDENS / "text_refiner_joint_image.safetensors")
WEIGHTS = {key.removeprefix("w."): tensor for key, tensor in GOLDEN.items() if key.startswith("w.")}
MANIFESTS = json.loads(gzip.decompress((GOLDENS / "manifests/text_refiners.json.gz").read_bytes()))


def write(path, content):
    torch.save(content, path)
    return path


def test_a_released_file_becomes_a_folder_that_gives_the_published_logits(tmp_path):
    convert(
        write(tmp_path / "published.pth", WEIGHTS), tmp_path / "refiner", hints=Hints(attention="joint", code_classes=2)
    )
    refiner = TextRefiner.from_pretrained(tmp_path / "refiner")
    assert refiner.config.attention == "joint"
    condition = TextCondition.of([GOLDEN["in.text_cond"]], GOLDEN["in.text_uncond"])
    with torch.no_grad():
        logits = refiner(GOLDEN["in.labels"], GOLDEN["in.pt"], condition)
    published = GOLDEN["out.logits_cond"]
    torch.testing.assert_close(
        logits.permute(0, 2, 3, 4, 1, 5).reshape(published.shape), published, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("averaged", "expected"), [(True, 2.0), (False, 1.0)])
def test_a_training_checkpoint_gives_averaged_weights_if_it_has_them(tmp_path, averaged, expected):
    last, mean = ({key: torch.full_like(w, value) for key, w in WEIGHTS.items()} for value in (1.0, 2.0))
    trainer = {"config": {}, "gpt_fsdp": last, "gpt_fsdp_opt": None, "gpt_ema_fsdp": mean if averaged else None}
    checkpoint = write(tmp_path / "global_step_5.pth", {"args": {"a": 1}, "epoch": 0, "iter": 5, "trainer": trainer})
    convert(checkpoint, tmp_path / "refiner", hints=Hints(attention="prefix", code_classes=2))
    refiner = TextRefiner.from_pretrained(tmp_path / "refiner")
    assert refiner.config.attention == "prefix"
    assert all((weight == expected).all() for weight in refiner.parameters())


@pytest.mark.parametrize("name", MANIFESTS)
def test_sizes_are_read_from_the_shapes_of_every_published_network(name):
    state = {key: torch.empty(shape, device="meta") for key, shape in MANIFESTS[name]["shapes"].items()}
    ours = translate_weights(state)
    config = infer_config(ours, "joint", code_classes=16 if name.endswith("ind") else 2)
    with torch.device("meta"):
        refiner = TextRefiner(**config)
    assert {key: weight.shape for key, weight in refiner.state_dict().items()} == {k: w.shape for k, w in ours.items()}
    assert refiner.head_dim == 128
    assert config["code_channels"] == (64 if name.endswith("ind") else 256)


def test_blocks_are_counted_through_the_chunks():
    assert rename("block_chunks.6.module.3.mlp.up_proj.weight", 4) == "blocks.27.mlp.value.weight"
    assert rename("block_chunks.0.module.0.attn.rotary.weight", 4) is None
    assert len(set(translate_weights(WEIGHTS))) == len(WEIGHTS)


def test_attention_is_never_guessed(tmp_path):
    for name, hint in (("GRN_T2V_2B.pth", ""), ("GRN_T2I_2B_FSA_1.pth", "; 'FSA' in its name suggests joint")):
        path = write(tmp_path / name, WEIGHTS)
        with pytest.raises(GenrefineError, match=f"error{hint}; give --attention prefix .* --attention joint"):
            convert(path, tmp_path / "refiner")
    assert not (tmp_path / "refiner").exists()
    made = convert(path, tmp_path / "refiner", hints=Hints(attention="prefix", code_classes=2))
    assert "but 'FSA' in the file's name suggests joint" in made.notes[0]


def test_classes_of_a_code_are_asked_for_unless_the_channels_are_those_of_released_models(tmp_path):
    """An index network of 8 rounds would else be converted as one of binary labels, and draw noise."""
    path = write(tmp_path / "index.pth", WEIGHTS)
    with pytest.raises(GenrefineError, match=r"512 one-hot channels and this one 32, .*; give code_classes"):
        convert(path, tmp_path / "refiner", hints=Hints(attention="joint"))
    made = convert(path, tmp_path / "refiner", hints=Hints(attention="joint", code_classes=16))
    assert "text refiner: codes: 2 channels of 16 classes, as given" in made.notes
    shapes = MANIFESTS["june_t2v_i2v_GRN8b_bit"]["shapes"]
    released = network_from_weights({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert released.config["code_classes"] == 2


def test_the_8b_size_exists_with_joint_attention_only():
    shapes = MANIFESTS["june_t2v_i2v_GRN8b_bit"]["shapes"]
    network = network_from_weights({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert network.config["attention"] == "joint"
    assert "as this size exists in the June program only" in network.notes[0]
    assert network.num_parameters == MANIFESTS["june_t2v_i2v_GRN8b_bit"]["total"]


def test_layouts_read_the_same_weights_differently():
    """The reason why the layout must be said."""
    joint, golden = load_golden("joint_image")
    with torch.no_grad():
        arguments = golden["in.labels"], golden["in.pt"], TextCondition.of([golden["in.text_cond"]], torch.ones(1, 24))
        prefix = TextRefiner(**{**joint.config, "attention": "prefix"})
        prefix.load_state_dict(joint.state_dict())
        assert (joint(*arguments) - prefix(*arguments)).abs().max() > 0.1


def test_foreign_missing_or_misshapen_weights_are_named(tmp_path):
    def converted(weights, **hints):
        path = write(tmp_path / "other.pth", weights)
        return convert(path, tmp_path / "refiner", hints=Hints(**{"attention": "joint", "code_classes": 2, **hints}))

    with pytest.raises(GenrefineError, match=r"does not: lm_head\.weight"):
        converted({**WEIGHTS, "lm_head.weight": torch.ones(1)})
    with pytest.raises(
        GenrefineError, match=r"missing: pt_embedder\.mlp\.0\.bias \(here signal_embedding\.input\.bias\)"
    ):
        converted({key: w for key, w in WEIGHTS.items() if key != "pt_embedder.mlp.0.bias"})
    with pytest.raises(GenrefineError, match=r"head\.proj\.bias \(here head\.linear\.bias\) is \(5,\), not \(32,\)"):
        converted({**WEIGHTS, "head.proj.bias": torch.ones(5)})
    with pytest.raises(GenrefineError, match=r"has no text_proj\.weight \(here text_embedding\.weight\)"):
        converted({key: w for key, w in WEIGHTS.items() if not key.startswith("text_proj")})
    with pytest.raises(GenrefineError, match="code_classes must divide the 32 one-hot channels; got 3"):
        converted(WEIGHTS, code_classes=3)
    with pytest.raises(GenrefineError, match="gpt_fsdp; this one has trainer"):
        converted({"trainer": {"config": {}}})
