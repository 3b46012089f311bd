"""Laws of `genrefine generate`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genrefine import ClassPipeline, zoo
from genrefine.media.writing import read_png_metadata
from reading import read_json, read_picture
from tiny_models import CLASS_NAMES


@pytest.fixture(scope="module")
def pipe(model):
    pipeline = ClassPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_one_picture_is_the_pipelines_own(genrefine, model, pipe):
    answer = genrefine("generate", "--model", model, "--class-label", "flags/noto", "--seed", 7, "-o", "a.png")
    assert (answer.code, answer.err) == (0, "")
    assert "seed 7: a.png" in answer.out
    assert np.array_equal(np.asarray(read_picture("a.png")), np.asarray(pipe("flags/noto", seed=7).images[0]))


def test_metadata_of_a_picture_makes_it_again(genrefine, model, pipe):
    genrefine("generate", "--model", model, "--class-label", 3, "--adaptive", "--temperature", 0.7, "-o", "a.png")
    made = read_png_metadata("a.png")
    again = pipe(made["class_labels"], seed=made["seeds"], **made["settings"])
    assert again.images[0].tobytes() == read_picture("a.png").tobytes()
    assert made["num_steps"] == again.num_steps
    assert made["settings"]["adaptive"] is True


def test_a_folder_holds_every_picture_with_its_own_settings(genrefine, model, pipe):
    labels = ["animals/noto", "food/fluent"]
    words = ["--class-label", *labels, "--num-images", 2, "--seed", 5, "-o", "out", "--batch-size", 3]
    assert genrefine("generate", "--model", model, *words).code == 0
    files = sorted(p.name for p in Path("out").iterdir())
    assert files[0] == "0-animals-noto-seed5.png"
    assert files[3] == "3-food-fluent-seed8.png"
    expected = pipe(labels, num_images_per_prompt=2, seed=5).images
    for name, image in zip(files, expected, strict=True):
        assert read_picture(f"out/{name}").tobytes() == image.tobytes()
    assert read_png_metadata(f"out/{files[2]}")["seeds"] == [7]


def test_a_sheet_shows_every_picture(genrefine, model, pipe):
    genrefine("generate", "--model", model, "--class-label", *CLASS_NAMES, "--seed", 1, "-o", "sheet.png")
    sheet = np.asarray(read_picture("sheet.png"))
    for image in pipe(CLASS_NAMES, seed=1).images:
        enlarged = np.asarray(image).repeat(8, 0).repeat(8, 1)
        windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (1, 128))[:, :, 0]
        assert (windows == enlarged[0, :, 0]).all(-1).any()
    assert read_png_metadata("sheet.png")["class_labels"] == CLASS_NAMES


def test_a_sheet_of_several_pictures_per_class_has_one_row_per_class(genrefine, model):
    words = ["--class-label", "flags/noto", "food/noto", "--num-images", 5, "--seed", 1, "-o", "sheet.png"]
    genrefine("generate", "--model", model, *words)
    assert read_picture("sheet.png").width == 5 * (128 + 8) + 8


def test_json_says_what_was_done(genrefine, model):
    words = ["--class-label", "flags/noto", "--seed", 3, 9, "--num-images", 2, "--adaptive", "-o", "out"]
    genrefine("generate", "--model", model, *words, "--json", "new/did.json")
    did = read_json("new/did.json")
    assert did["seeds"] == [3, 9]
    assert did["class_labels"] == ["flags/noto"] * 2
    assert [len(trace) for trace in did["entropy"]] == did["num_steps"]
    assert len(did["num_evaluations"]) == len(did["files"]) == 2
    assert did["settings"]["kernel"] == "refresh"
    assert did["seconds"] > 0


def test_batches_change_nothing(genrefine, model):
    words = ["generate", "--model", model, "--class-label", *CLASS_NAMES, "--seed", 1, "--adaptive"]
    genrefine(*words, "-o", "one.png")
    genrefine(*words, "-o", "many.png", "--batch-size", 2)
    assert read_picture("one.png").tobytes() == read_picture("many.png").tobytes()


def test_drawn_seeds_are_printed_and_make_the_picture_again(genrefine, model):
    genrefine("generate", "--model", model, "--class-label", "0", "-o", "a.png", "--json", "a.json")
    (seed,) = read_json("a.json")["seeds"]
    answer = genrefine("generate", "--model", model, "--class-label", "0", "--seed", seed, "-o", "b.png")
    assert f"seed {seed}" in answer.out
    assert read_picture("a.png").tobytes() == read_picture("b.png").tobytes()


def test_without_a_class_a_picture_of_none_is_made(genrefine, model, pipe):
    genrefine("generate", "--model", model, "--seed", 7, "-o", "a.png")
    assert read_picture("a.png").tobytes() == pipe(None, seed=7).images[0].tobytes()
    assert genrefine("generate", "--model", model, "--seed", 7, "-o", "out").code == 0
    assert read_png_metadata("out/0-no-class-seed7.png")["class_labels"] == [None]


@pytest.mark.parametrize("batch_size", [1, 64])
def test_film_has_one_frame_per_step(genrefine, model, batch_size):
    words = ["--class-label", *CLASS_NAMES[:3], "--seed", 1, "-o", "a.png", "--batch-size", batch_size]
    genrefine("generate", "--model", model, *words, "--adaptive", "--film", "film.webp", "--json", "a.json")
    did = read_json("a.json")
    with Image.open("film.webp") as film:
        assert film.n_frames == max(did["num_steps"])
    assert did["files"] == ["a.png", "film.webp"]


def test_list_classes_prints_them_one_a_line(genrefine, model):
    answer = genrefine("generate", "--model", model, "--list-classes")
    assert answer.out.splitlines() == CLASS_NAMES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class-label", "flags/notto", "-o", "a.png"], "did you mean 'flags/noto'"),
        (["--class-label", "9", "-o", "a.png"], "class numbers run from 0 to 5; got 9"),
        (["--class-label", "0", "--first-frame", "file"], "--class-label asks a model of classes, which takes no"),
        (["--frames", "17", "-o", "a.mp4"], "is a model of classes, which takes no --frames"),
        (["-o", "a.jpg"], "written as .png"),
        (["-o", "file/a.png"], "cannot write 'file/a.png'"),
        (["-o", "file"], "cannot write 'file"),
        (["-o", "a.png", "--json", "file/a.json"], "cannot write 'file/a.json'"),
        (["-o", "a.png", "--film", "a.mp4"], "must end in .gif or .webp"),
        (["-o", "a.png", "--film", "file/a.gif"], "cannot write 'file/a.gif'"),
        (["-o", "a.png", "--film", "a.gif", "--num-images", "10"], "at most 9 pictures; got 10"),
        (["-o", "a.png", "--num-inference-steps", "0"], "at least 1; got 0"),
        (["-o", "a.png", "--num-inference-steps", "3", "--adaptive"], "not allowed with"),
        (["-o", "a.png", "--batch-size", "0"], "must be at least 1; got 0"),
        (["-o", "a.png", "--num-images", "0"], "must be at least 1; got 0"),
        (["-o", "a.png", "--seed", "1", "2", "3"], "one for each of the 1 pictures; got 3"),
        (["-o", "a.png", "--seed", "-1"], "a seed must be a whole number"),
        (["-o", "a.png", "--guidance-scale", "3"], "guidance needs a class"),
        (["-o", "a.png", "--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["-o", "a.png", "--model", "missing"], "no model at 'missing'"),
        (["-o", "a.png", "--model", "file"], "no model at 'file'"),
        (["-o", "a.png", "--model", "."], "not a pipeline folder"),
        (["--list-classes", "--seed", "1"], "leave out --seed"),
    ],
)
def test_wrong_requests_end_in_one_line_and_code_2(genrefine, model, tmp_path, words, message):
    (tmp_path / "file").write_text("in the way")
    answer = genrefine("generate", "--model", model, *words)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["file"]


def test_shipped_models_are_found_by_name(genrefine, model, monkeypatch):
    monkeypatch.setattr("genrefine.model_folder.find.SHIPPED", model.parent)
    assert zoo.names() == ["tiny"]
    assert zoo.load("tiny").class_names == CLASS_NAMES
    assert genrefine("generate", "--model", "tiny", "--list-classes").out.splitlines() == CLASS_NAMES
    with pytest.raises(ValueError, match="no shipped model 'huge'; expected one of: tiny"):
        zoo.load("huge")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "x.webm"], "'x.webm' has an ending that is not written; expected .png, or a folder"),
        (["-o", "run.v1"], "has an ending that is not written"),
        (["-o", "-"], "not to standard output"),
        (["-o", "a.png", "--json", "a.png"], "--output and --json both write 'a.png'"),
        (["-o", "a.png", "--json", "./b", "--film", "a.webp", "--json", "a.webp"], "--json and --film both write"),
    ],
)
def test_an_output_that_cannot_be_meant_is_refused_before_anything_is_drawn(genrefine, model, words, message):
    answer = genrefine("generate", "--model", model, "--class-label", 0, *words)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert not [path for path in Path().iterdir() if path.suffix in (".png", ".webp", ".webm", ".json")]


def test_an_existing_folder_may_have_a_dot_in_its_name(genrefine, model):
    Path("run.v1").mkdir()
    assert genrefine("generate", "--model", model, "--class-label", 0, "--seed", 1, "-o", "run.v1").code == 0
    assert [path.suffix for path in Path("run.v1").iterdir()] == [".png"]
