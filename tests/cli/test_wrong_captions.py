"""Broken clips, missing captions and encoders that do not fit end in one line and exit code 2, whatever the verb."""

import pytest
from captioned_sets import write_captioned

from tiny_models import tiny_text_encoder

EXTRACTOR = "--split test --num-prompts 8 --num-inference-steps 2"
TRAIN = "train small-text --out run --set data.size=16 clips.size=16 clips.num_frames=5 training.compile=false"
TRAIN += " refiner.width=24 refiner.depth=1 refiner.num_heads=2 refiner.mlp_width=32 training.batch_size=4"
TRAIN += " training.num_steps=1 tokenizer={model}/visual_tokenizer text_encoder=encoder"


@pytest.fixture
def place(tmp_path):
    """Return a folder with captioned pictures `cap`, clips `movies`, a broken clip in `movies-bad`, and an encoder."""
    write_captioned(tmp_path)
    for part in tiny_text_encoder():
        part.save_pretrained(tmp_path / "encoder")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("encode movies-bad/test --frames 5 --model {model} -o store", "cannot read clip 'bad.webp'"),
        ("evaluate clips --model {model} --data movies-bad --frames 5 " + EXTRACTOR, "cannot read clip 'bad.webp'"),
        ("evaluate clips --model {model} --data movies --frames 5 --caption-column text " + EXTRACTOR, "column 'text'"),
        ("evaluate prompts --model {model} --data cap --caption-column text " + EXTRACTOR, "no column 'text'"),
        ("evaluate prompts --model {model} --data cap --concept-column thing " + EXTRACTOR, "no column 'thing'"),
        (TRAIN + " data.source=cap data.split=test data.caption_column=text", "no column 'text'; the data set has"),
        (TRAIN + " data.source=cap data.split=test data.caption_column=family data.only=concept=x", "leave none of 12"),
        (TRAIN + " clips.source=movies-bad clips.split=test clips.caption_column=title", "cannot read clip 'bad.webp'"),
    ],
)
def test_what_is_wrong_is_one_line_and_code_2(genrefine, text_model, place, line, message):
    answer = genrefine(*line.format(model=text_model).split())
    assert answer.code == 2
    problem = answer.err.splitlines()[-1]
    assert problem.startswith(f"genrefine {line.split()[0]}: ")
    assert message in problem
    assert "Traceback" not in answer.err


def test_a_broken_clip_can_be_left_out_and_is_named(genrefine, text_model, place):
    words = ["--frames", 5, "--skip-unreadable", "--model", text_model, "-o", "store"]
    answer = genrefine("encode", "movies-bad/test", *words)
    assert answer.code == 0
    assert "bad.webp" in answer.err
