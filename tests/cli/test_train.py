"""Laws of `genrefine train`."""

from pathlib import Path

import pytest

from genrefine import ClassPipeline, VisualTokenizer, presets

TINY = [
    "data.size=16",
    "data.heldout=test",
    "data.only=",
    "data.label_column=class_name",
    "training.num_steps=2",
    "training.batch_size=4",
    "training.compile=false",
    "training.mixed_precision=no",
]
TOKENIZER = [
    "tokenizer.latent_dim=2",
    "tokenizer.rounds=2",
    "tokenizer.encoder_width=8",
    "tokenizer.decoder_width=8",
    "tokenizer.channel_multipliers=1,1",
    "tokenizer.temporal_downsample=False",
    "loss.rounds=2",
]
REFINER = [
    "refiner.width=16",
    "refiner.depth=1",
    "refiner.num_heads=2",
    "refiner.bottleneck=8",
    "refiner.in_context_tokens=2",
    "refiner.in_context_start=0",
    "sampler.num_inference_steps=2",
]


def test_presets_are_listed_with_what_they_make(genrefine):
    answer = genrefine("train", "--list")
    assert answer.code == 0
    for name, line in zip(presets.names(), answer.out.splitlines(), strict=True):
        assert line.split(maxsplit=1)[0] == name
        assert line.endswith((presets.PRESETS[name].__doc__ or "").splitlines()[0].removeprefix("Return "))


def test_training_makes_models_that_load_and_continues_where_it_ended(genrefine, model, pictures):
    data = f"data.source={pictures}"
    words = ["train", "emoji-tokenizer", "--out", "t", "--set", data, *TINY, *TOKENIZER]
    answer = genrefine(*words)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1] == "result: t/tokenizer"
    assert VisualTokenizer.from_pretrained("t/tokenizer").spatial_stride == 4
    twice = genrefine(*words, "training.num_steps=3")
    assert twice.code == 2
    assert "'training.num_steps' 2 times" in twice.err
    longer = [word for word in words if word != "training.num_steps=2"]
    answer = genrefine(*longer, "training.num_steps=3")
    assert answer.code == 0
    assert "continuing t after 2 of 3 updates" in answer.out

    words = ["train", "emoji-class", "--out", "c", "--set", data, *TINY, *REFINER, "tokenizer=t/tokenizer"]
    answer = genrefine(*words)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1] == "result: c/pipeline"
    assert ClassPipeline.from_pretrained("c/pipeline").class_names == ["animals/noto", "food/fluent"]
    answer = genrefine("generate", "--model", "c/pipeline", "--class-label", "food/fluent", "-o", "a.png")
    assert (answer.code, answer.err) == (0, "")
    # Codes that another tokenizer made are refused, although the pictures are the same.
    Path("c-codes").rename("d-codes")
    words[words.index("c")], words[-1] = "d", f"tokenizer={model}/visual_tokenizer"
    answer = genrefine(*words)
    assert answer.code == 2
    assert "d-codes" in answer.err
    assert "tokenizer" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected one of: emoji-tokenizer"),
        (["emoji-klass", "--out", "t"], "did you mean emoji-class"),
        (["emoji-class"], "give --out DIR"),
        (["emoji-class", "--out", "file/t"], "cannot write"),
        (["emoji-class", "--out", "t", "--set", "training.lerning_rate=1"], "did you mean learning_rate"),
        (["emoji-class", "--out", "t", "--set", "training.num_steps=many"], "training.num_steps must be int"),
        (["emoji-class", "--out", "t", "--set", "training.num_steps"], "--set takes NAME=VALUE"),
        (
            ["emoji-tokenizer", "--out", "t", "--set", "data.source=empty", "data.split=", "data.only="],
            "no pictures in",
        ),
        (["--list", "emoji-class"], "--list trains nothing"),
        (["--list", "--out", "t"], "--list trains nothing"),
        (["--list", "--set", "a=b"], "--list trains nothing"),
    ],
)
def test_wrong_requests_end_in_one_line_and_code_2(genrefine, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    answer = genrefine("train", *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
