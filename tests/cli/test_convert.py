"""Laws of `genrefine convert`."""

import argparse
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genrefine import ClassPipeline, ClassRefiner, TextPipeline, VisualTokenizer
from genrefine.convert.checkpoint import read_checkpoint
from genrefine.errors import GenrefineError
from reading import read_json
from tiny_models import tiny_clip_tokenizer, tiny_text_encoder, tiny_text_refiner

GOLDENS = Path(__file__).parents[1] / "goldens"
REFINER = ["refiner.pth", "--in-context-start", 1]


def weights_of(name: str) -> dict[str, torch.Tensor]:
    return {key[2:]: tensor for key, tensor in load_file(GOLDENS / name).items() if key.startswith("w.")}


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def published(tmp_path):
    """Write a class refiner, a text refiner and a tokenizer as they are published."""
    weights = weights_of("class_refiner_index.safetensors")
    doubled = {key: 2 * tensor if "linear" in key else tensor for key, tensor in weights.items()}
    arguments = argparse.Namespace(method="GRN_ind", hbq_round=4)
    content = {"model": doubled, "model_ema1": weights, "model_ema2": doubled, "epoch": 1, "args": arguments}
    torch.save(content, tmp_path / "refiner.pth")
    torch.save({"vae": weights_of("tokenizer.safetensors")}, tmp_path / "tokenizer.ckpt")
    torch.save(weights_of("text_refiner_joint_image.safetensors"), tmp_path / "text.pth")
    return tmp_path


def test_a_class_refiner_and_a_tokenizer_become_a_pipeline_that_generates(genrefine, published):
    (published / "names.txt").write_text("\n".join("abcdefghij"))
    words = [*REFINER, "--tokenizer", "tokenizer.ckpt", "--class-names", "names.txt", "-o", "p"]
    answer = genrefine("convert", *words)
    assert (answer.code, answer.err) == (0, "")
    assert "blocks.*.attn.qkv.weight" in answer.out
    assert "blocks.*.attention.query_key_value.weight  192 x 64" in answer.out
    assert "class refiner: weights 'model_ema1' of the file" in answer.out
    assert "visual tokenizer: codes: 4 rounds, index layout, as the refiner has them" in answer.out
    assert "read back and equal: p" in answer.out
    pipe = ClassPipeline.from_pretrained("p")
    assert pipe.class_names == list("abcdefghij")
    assert read_json("p/sampler/scheduler_config.json")["temperature"] == 1.31
    made = genrefine("generate", "--model", "p", "--class-label", "b", "--num-inference-steps", 2, "-o", "a.png")
    assert made.code == 0
    assert genrefine("describe", "p").out.startswith("p: class pipeline")
    assert genrefine("reconstruct", "a.png", "--model", "p", "-o", "b.png").code == 0
    calibrated = genrefine("calibrate", "p", "--num-images", 6, "--max-steps", 9, "--warmup", 2, "--mean-steps", 6)
    assert calibrated.code == 0
    assert genrefine("generate", "--model", "p", "--class-label", "c", "--adaptive", "-o", "c.png").code == 0


def test_a_folder_with_both_files_is_enough(genrefine, published):
    (published / "text.pth").unlink()
    answer = genrefine("convert", ".", "--in-context-start", 1, "-o", "../both")
    assert (answer.code, answer.err) == (0, "")
    assert "class pipeline, " in answer.out
    assert genrefine("describe", "../both").code == 0


def test_parts_come_one_by_one_and_what_is_missing_is_said(genrefine, published):
    answer = genrefine("convert", *REFINER, "-o", "r")
    assert answer.out.splitlines()[-1] == "missing for a pipeline: the visual tokenizer: --tokenizer FILE_OR_DIR"
    assert ClassRefiner.from_pretrained("r").config.code_classes == 16
    answer = genrefine("convert", "tokenizer.ckpt", "--rounds", 3, "--layout", "index", "--unbounded", "-o", "t")
    assert "missing for a pipeline: a refiner" in answer.out
    tokenizer = VisualTokenizer.from_pretrained("t")
    assert (tokenizer.hbq.rounds, tokenizer.hbq.layout, tokenizer.config.bounded) == (3, "index", False)
    assert genrefine("describe", "r").out.startswith("r: class refiner")
    # Rounds and layout are no weights: in the pipeline they are those of the refiner.
    answer = genrefine("convert", "r", "--tokenizer", "t", "-o", "p", "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    assert ClassPipeline.from_pretrained("p").visual_tokenizer.hbq.rounds == 4
    assert read_json("did.json")["parameters"].keys() == {"refiner", "visual_tokenizer"}


def test_other_weights_give_another_refiner(genrefine, published):
    for name in ("model_ema1", "model"):
        assert genrefine("convert", *REFINER, "--weights", name, "-o", name).code == 0
    first, second = (load_file(f"{name}/diffusion_pytorch_model.safetensors") for name in ("model_ema1", "model"))
    assert torch.equal(second["head.linear.weight"], 2 * first["head.linear.weight"])


def test_text_refiner_tokenizer_and_encoder_become_a_pipeline_that_generates(genrefine, published):
    for part in tiny_text_encoder("umt5"):
        part.save_pretrained("encoder")
    words = ["text.pth", "--attention", "joint", "--code-classes", 2, "--tokenizer", "tokenizer.ckpt"]
    answer = genrefine("convert", *words, "-o", "parts")
    assert answer.out.endswith("missing for a pipeline: the text encoder: --text-encoder DIR_OR_NAME\n")
    assert sorted(path.name for path in Path("parts").iterdir()) == ["checksums.json", "refiner", "visual_tokenizer"]
    answer = genrefine("convert", *words, "--text-encoder", "encoder", "--task", "video", "-o", "p")
    assert (answer.code, answer.err) == (0, "")
    assert "text refiner: attention: joint, as given" in answer.out
    pipe = TextPipeline.from_pretrained("p")
    assert (pipe.picture_size, pipe.frames_per_second) == ((480, 848), 16.0)
    config = pipe.sampler.config
    published = config["published"]
    assert (published["schedule_cap"], published["realized_signal"], config["guidance_scale"]) == (0.95, True, 3.0)
    sizes = ["--height", 32, "--width", 48, "--num-inference-steps", 2]
    assert genrefine("generate", "a dog", "--model", "p", *sizes, "-o", "a.png").code == 0
    assert genrefine("generate", "a dog", "--model", "p", *sizes, "--frames", 5, "-o", "a.gif").code == 0
    first = ["--first-frame", "a.png", "--frames", 5, "--seed", 3]
    assert genrefine("generate", "a dog", "--model", "p", *sizes, *first, "-o", "b.gif").code == 0


def test_component_folders_of_ours_become_a_text_pipeline(genrefine, tmp_path):
    tiny_text_refiner(attention="prefix").save_pretrained(tmp_path / "r")
    tiny_clip_tokenizer().save_pretrained(tmp_path / "t")
    for part in tiny_text_encoder():
        part.save_pretrained(tmp_path / "e")
    answer = genrefine("convert", "r", "--tokenizer", "t", "--text-encoder", "e", "-o", "p")
    assert (answer.code, answer.err) == (0, "")
    assert TextPipeline.from_pretrained("p").sampler.config["published"]["schedule_cap"] == 0.999


def test_a_published_class_model_is_fine_tuned_on_other_classes(genrefine, published, pictures):
    assert genrefine("convert", *REFINER, "--tokenizer", "tokenizer.ckpt", "-o", "p").code == 0
    sizes = "width=64 depth=4 num_heads=4 bottleneck=16 in_context_tokens=8 in_context_start=1"
    settings = [f"refiner.{size}" for size in sizes.split()]
    settings += [f"data.source={pictures}", "data.size=128", "data.only=", "data.label_column=", "data.split=train"]
    settings += [
        "training.num_steps=1",
        "training.batch_size=2",
        "training.compile=false",
        "training.num_workers=0",
        "data.heldout=",
    ]
    settings += ["tokenizer=p/visual_tokenizer", "refiner.start=p/refiner"]
    answer = genrefine("train", "class-refiner", "--out", "run", "--set", *settings)
    assert answer.code == 0, answer.err
    assert "started from p/refiner; new weights: none; 2 of 2 classes are new" in answer.out + answer.err
    assert ClassPipeline.from_pretrained("run/pipeline").class_names == ["animals/noto", "food/fluent"]


def test_a_tokenizer_that_starts_from_a_published_one_has_its_encoder(genrefine, published, pictures):
    assert genrefine("convert", "tokenizer.ckpt", "-o", "t").code == 0
    settings = ["latent_dim=4", "encoder_width=6", "decoder_width=8", "encoder_outputs=2", "start=t"]
    settings = [f"tokenizer.{setting}" for setting in settings]
    settings += [f"data.source={pictures}", "data.size=32", "data.only=", "data.split=train", "data.heldout="]
    settings += [
        "training.num_steps=1",
        "training.batch_size=2",
        "training.compile=false",
        "training.num_workers=0",
        "loss.perceptual=0",
    ]
    answer = genrefine("train", "image-tokenizer", "--out", "run", "--set", *settings, "loss.adversarial=0")
    assert answer.code == 0, answer.err
    assert "started from t; new weights: none" in answer.out + answer.err


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor], index: dict[str, str] | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    if index is not None:
        content = json.dumps({"weight_map": index})
        (path.parent / "model.safetensors.index.json").write_text(content)


def with_a_byte_altered(path: Path) -> bytes:
    """Return an archive with one bit of its largest record changed."""
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[record.header_offset + record.file_size // 2 + 128] ^= 1
    return bytes(content)


def test_an_altered_record_is_noticed_where_torch_notices_nothing(published):
    (published / "altered.ckpt").write_bytes(with_a_byte_altered(published / "tokenizer.ckpt"))
    torch.load(published / "altered.ckpt", weights_only=True)
    with pytest.raises(GenrefineError, match="its checksum differs"):
        read_checkpoint(published / "altered.ckpt")


def test_shards_with_an_index_are_one_checkpoint(genrefine, published):
    weights = weights_of("text_refiner_joint_image.safetensors")
    names = list(weights)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    index = {name: shard for shard, own in halves.items() for name in own}
    for shard, own in halves.items():
        write_safetensors(published / "shards" / shard, {name: weights[name] for name in own}, index)
    answer = genrefine("convert", "shards", "--attention", "prefix", "--code-classes", 2, "-o", "r")
    assert (answer.code, answer.err) == (0, "")
    assert torch.equal(
        load_file("r/diffusion_pytorch_model.safetensors")["head.linear.bias"], weights["head.proj.bias"]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.pth"], "missing.pth"),
        (["words.pth"], "words.pth is not or is damaged"),
        (["cut.pth"], "cut.pth is not or is damaged"),
        (["hostile.pth"], "hostile.pth holds"),
        (["refiner.pth"], "give in_context_start"),
        ([*REFINER, "--weights", "best"], "choose one of these"),
        ([*REFINER, "--code-classes", "2"], "code_classes is 16"),
        ([*REFINER, "--attention", "joint"], "attention says nothing about a class refiner"),
        ([*REFINER, "--task", "image"], "the task goes into the pipeline of a text refiner"),
        ([*REFINER, "--text-encoder", "e"], "a text encoder goes with a text refiner and a tokenizer"),
        ([*REFINER, "--class-names", "names.txt"], "class names go into the pipeline"),
        ([*REFINER, "--tokenizer", "text.pth"], "the weights in 'text.pth' do not tell their attention"),
        ([*REFINER, "--tokenizer", "tokenizer.ckpt", "--rounds", "3"], "rounds of this refiner's codes is 4; got 3"),
        (["text.pth"], "give --attention prefix"),
        (["tokenizer.ckpt", "--rounds", "99"], "rounds must be from 1 to 16"),
        (["text.pth", "--attention", "joint"], "give code_classes (--code-classes)"),
        (
            ["text.pth", "--attention", "joint", "--code-classes", "-3"],
            "code_classes must be from 2 to 65536; got '-3'",
        ),
        (["altered.ckpt"], "of altered.ckpt is not what was saved (its checksum differs)"),
        (["packed.ckpt"], "which torch.save never writes"),
        (["tokenizer.ckpt", "--layout", "byte"], "invalid choice: 'byte'"),
        (["tokenizer.ckpt", "--out", "full"], "new or empty folder"),
        (["tokenizer.ckpt", "--out", "words.pth/x"], "cannot write"),
        (["full"], "'full' holds no weights"),
        (["linked"], "is a symbolic link; a folder of weights must hold plain files"),
        (["two"], "one tokenizer makes a model"),
        (["away"], "names the shard '../a.safetensors', which leads out of its folder"),
        (["absolute"], "names the shard '/etc/a.safetensors', which leads out of its folder"),
        (["lost"], "names the shard 'b.safetensors', which is not there"),
        (["repeated"], "hold the key 'a'"),
        (["integers.safetensors"], "'a' is int64"),
        (["foreign.safetensors"], "no published network has these keys: a"),
        (["nan.ckpt"], "one of 'conv_quant.bias' is NaN or infinite"),
    ],
)
def test_wrong_requests_end_in_one_line_and_code_2(genrefine, published, words, message):
    (published / "full").mkdir()
    (published / "full" / "a").write_text("")
    (published / "words.pth").write_text("no checkpoint")
    (published / "names.txt").write_text("a\n")
    whole = (published / "refiner.pth").read_bytes()
    (published / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": {"a": Hostile(published / "marker")}}, published / "hostile.pth")
    (published / "linked").mkdir()
    (published / "linked" / "a.ckpt").symlink_to(published / "tokenizer.ckpt")
    (published / "two").mkdir()
    for name in ("a.ckpt", "b.ckpt"):
        (published / "two" / name).write_bytes((published / "tokenizer.ckpt").read_bytes())
    one = {"a": torch.ones(1)}
    write_safetensors(published / "away/a.safetensors", one, {"a": "../a.safetensors"})
    write_safetensors(published / "absolute/a.safetensors", one, {"a": "/etc/a.safetensors"})
    write_safetensors(published / "lost/a.safetensors", one, {"a": "b.safetensors"})
    for name in ("a", "b"):
        index = {"a": "a.safetensors", "b": "b.safetensors"}
        write_safetensors(published / f"repeated/{name}.safetensors", one, index)
    write_safetensors(published / "integers.safetensors", {"a": torch.ones(1, dtype=torch.int64)})
    write_safetensors(published / "foreign.safetensors", one)
    (published / "altered.ckpt").write_bytes(with_a_byte_altered(published / "tokenizer.ckpt"))
    with zipfile.ZipFile(published / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("packed/data/0", bytes(1 << 20))
    broken = weights_of("tokenizer.safetensors")
    broken["conv1.bias"] = broken["conv1.bias"] * float("nan")
    torch.save({"vae": broken}, published / "nan.ckpt")
    before = {path.name for path in published.iterdir()}
    answer = genrefine("convert", "-o", "new", *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert {path.name for path in published.iterdir()} == before
    assert not (published / "marker").exists()
