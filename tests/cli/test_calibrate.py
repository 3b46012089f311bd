"""Laws of `genrefine calibrate`."""

import json
import shutil

import pytest
from captioned_sets import CONCEPTS, write_captioned

from genrefine import ClassPipeline, TextPipeline
from reading import read_json


@pytest.fixture
def copy(model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    return tmp_path / "m"


def test_calibration_reaches_the_wanted_mean_on_new_pictures(genrefine, copy):
    words = ["--mean-steps", 7, "--min-steps", 4, "--max-steps", 12, "--warmup", 2, "--num-images", 60]
    answer = genrefine("calibrate", "m", *words, "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    did = read_json("did.json")
    assert did["mean_steps"] == pytest.approx(7, abs=0.5)
    assert len(did["entropy"]) == len(did["num_steps"]) == 60
    pipe = ClassPipeline.from_pretrained(copy)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.sampler.config.entropy_steps == did["entropy_steps"]
    out = pipe(list(range(6)), num_images_per_prompt=10, seed=1000, adaptive=True)
    assert sum(out.num_steps) / 60 == pytest.approx(7, abs=1)
    # The runs that were observed take exactly the steps that were predicted for them.
    labels = [index % 6 for index in range(60)]
    assert pipe(labels, seed=0, adaptive=True).num_steps == did["num_steps"]


def test_histogram_counts_every_run(genrefine, copy):
    answer = genrefine("calibrate", "m", "--mean-steps", 6, "--max-steps", 9, "--warmup", 2, "--num-images", 30)
    rows = [line.split() for line in answer.out.splitlines() if line[:5].strip().isdigit()]
    assert sum(int(row[1]) for row in rows) == 30
    assert max(len(row[2]) for row in rows if len(row) > 2) == 50


def test_only_the_budget_in_the_configuration_changes(genrefine, model, copy):
    genrefine("calibrate", "m", "--mean-steps", 6, "--max-steps", 9, "--warmup", 2, "--num-images", 12)
    path = "sampler/scheduler_config.json"
    before, after = (json.loads((folder / path).read_text()) for folder in (model, copy))
    assert before["entropy_steps"] != after["entropy_steps"]
    shared = {key for key in before if not key.startswith("_") and key != "entropy_steps"}
    assert {key: before[key] for key in shared} == {key: after[key] for key in shared}
    others = [p.relative_to(model) for p in model.rglob("*") if p.is_file() and p.name != "scheduler_config.json"]
    assert all((model / name).read_bytes() == (copy / name).read_bytes() for name in others)


@pytest.fixture
def text_copy(text_model, tmp_path):
    shutil.copytree(text_model, tmp_path / "t")
    return tmp_path / "t"


WARMUP = ["--mean-steps", 6, "--min-steps", 3, "--max-steps", 9, "--warmup", 2]


def test_a_model_of_prompts_is_calibrated_on_the_prompts_in_its_folder(genrefine, text_copy):
    (text_copy / "prompts.txt").write_text("a red heart\n\n a dog \na red heart\npizza\n")
    answer = genrefine("calibrate", "t", *WARMUP, "--num-images", 7, "--seed", 5, "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    did = read_json("did.json")
    assert did["prompts"] == ["a red heart", "a dog", "pizza", "a red heart", "a dog", "pizza", "a red heart"]
    pipe = TextPipeline.from_pretrained(text_copy)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(did["prompts"], seed=5, adaptive=True).num_steps == did["num_steps"]


def test_prompts_come_from_a_file_or_from_captions_spread_over_the_runs(genrefine, text_copy, tmp_path):
    (tmp_path / "own.txt").write_text("".join(f"dog {number}\n" for number in range(10)))
    genrefine("calibrate", "t", *WARMUP, "--num-images", 5, "--prompts", "own.txt", "--json", "did.json")
    assert read_json("did.json")["prompts"] == [f"dog {number}" for number in (0, 2, 4, 6, 8)]
    write_captioned(tmp_path)
    words = ["--captions", "cap", "--split", "test", "--keep", "style=blue", "--num-images", 6, "--json", "did.json"]
    assert genrefine("calibrate", "t", *WARMUP, *words).code == 0
    assert read_json("did.json")["prompts"] == [f"blue {name}" for name in CONCEPTS]
    assert genrefine("calibrate", "t", *WARMUP, *words, "--caption-column", "title").code == 0
    assert read_json("did.json")["prompts"] == [f"a {name} of japan" for name in CONCEPTS]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["t"], "'t' has no prompts.txt; give --prompts FILE with one prompt a line, or --captions"),
        (["t", "--prompts", "empty.txt"], "'empty.txt' holds no prompt"),
        (["t", "--prompts", "missing.txt"], "cannot use 'missing.txt'"),
        (["t", "--prompts", "binary.txt"], "is no UTF-8 text"),
        (["t", "--prompts", "empty.txt", "--captions", "cap"], "not allowed with"),
        (["t", "--prompts", "empty.txt", "--split", "test"], "--split is about captioned pictures; give --captions"),
        (
            ["t", "--captions", "cap", "--split", "test", "--caption-column", "text"],
            "no column 'text'; the data set has",
        ),
        (["m", "--prompts", "empty.txt"], "'m' is a model of classes; leave out --prompts"),
    ],
)
def test_wrong_prompts_end_in_one_line_and_leave_the_model_alone(
    genrefine, text_model, copy, text_copy, tmp_path, words, message
):
    write_captioned(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    answer = genrefine("calibrate", *words, *WARMUP)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
    path = "sampler/scheduler_config.json"
    assert (text_model / path).read_bytes() == (text_copy / path).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing"], "no model at"),
        (["org/name"], "is on the hub"),
        (["m", "--mean-steps", "0", "--warmup", "1"], "mean_steps must lie between"),
        (["m", "--max-steps", "0"], "at least 1; got 0"),
        (["m", "--mean-steps", "99", "--warmup", "1"], "mean_steps must lie between"),
        (["m", "--warmup", "9"], "warmup < min_steps"),
        (["m", "--num-images", "0"], "at least 1"),
        (["m", "--json", "m/checksums.json/a"], "cannot write"),
    ],
)
def test_wrong_requests_end_in_one_line_and_leave_the_model_alone(genrefine, model, copy, words, message):
    answer = genrefine("calibrate", *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
    path = "sampler/scheduler_config.json"
    assert (model / path).read_bytes() == (copy / path).read_bytes()
