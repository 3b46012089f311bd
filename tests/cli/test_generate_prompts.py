"""Laws of `genrefine generate` with a model of prompts."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from genrefine import TextPipeline, zoo
from genrefine.data import ClipSource
from genrefine.media.pixels import from_pil, to_pil
from genrefine.media.writing import read_clip_metadata, read_png_metadata
from reading import read_json, read_picture
from tiny_models import tiny_pipeline


@pytest.fixture(scope="module")
def pipe(text_model):
    pipeline = TextPipeline.from_pretrained(text_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def paint(genrefine, text_model):
    """Return a function that runs `genrefine generate` with the tiny text model."""
    return lambda *words: genrefine("generate", *words, "--model", text_model)


def frames_of(path: str | Path) -> list[bytes]:
    """Return the frames of a moving picture."""
    with Image.open(path) as film:
        return [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(film)]


def test_a_prompt_gives_the_pipelines_own_picture(paint, pipe):
    answer = paint("a red heart", "--seed", 7, "-o", "a.png")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("1 picture in ")
    assert "seed 7: a.png" in answer.out
    assert read_picture("a.png").tobytes() == pipe("a red heart", seed=7).images[0].tobytes()


def test_without_an_output_the_file_is_named_after_prompt_and_seed(paint, tmp_path):
    assert paint("a red heart!", "--seed", 7).code == 0
    assert paint("a red heart!", "--seed", 7, "--frames", 3).code == 0
    assert paint("--seed", 3).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-red-heart-seed7.mp4",
        "a-red-heart-seed7.png",
        "no-prompt-seed3.png",
    ]


def test_no_prompt_is_the_empty_prompt(paint, pipe):
    assert paint("--seed", 3, "-o", "a.png").code == 0
    assert read_picture("a.png").tobytes() == pipe("", seed=3).images[0].tobytes()


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_a_moving_picture_holds_every_frame_at_the_speed_of_the_model(paint, pipe, suffix):
    answer = paint("a dog", "--frames", 5, "--seed", 2, "-o", f"dog.{suffix}")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("1 clip in ")
    expected = [frame.tobytes() for frame in pipe("a dog", num_frames=5, seed=2).frames[0]]
    found = frames_of(f"dog.{suffix}")
    assert len(found) == 5
    if suffix == "webp":  # lossless
        assert found == expected
    with Image.open(f"dog.{suffix}") as film:
        durations = [(frame.load(), frame.info["duration"])[1] for frame in ImageSequence.Iterator(film)]
    assert sum(durations) == pytest.approx(1000 * 5 / pipe.frames_per_second, abs=10)
    assert read_clip_metadata(f"dog.{suffix}")["prompts"] == ["a dog"]


def test_an_mp4_holds_every_frame(paint, pipe):
    assert paint("a dog", "--frames", 5, "--seed", 2, "-o", "film/dog.mp4").code == 0
    source = ClipSource("film", num_frames=5, size=16)
    expected = pipe("a dog", num_frames=5, seed=2, output_type="np").frames[0]
    found = ((source[0][0] + 1) / 2).permute(1, 2, 3, 0).numpy()
    # Color has half the resolution in this format, so brightness is what is kept.
    assert np.abs(found.mean(-1) - expected.mean(-1)).mean() < 0.12


def test_metadata_of_a_clip_makes_it_again(paint, pipe):
    paint("a dog", "a red heart", "--frames", 3, "--adaptive", "--negative-prompt", "blue", "-o", "out")
    files = sorted(Path("out").iterdir())
    assert [path.name.split("-seed")[0] for path in files] == ["0-a-dog", "1-a-red-heart"]
    for path in files:
        made = read_clip_metadata(path)
        again = pipe(made["prompts"], seed=made["seeds"], **made["settings"])
        assert again.num_steps == made["num_steps"]
        assert len(again.frames[0]) == 3
        assert made["settings"]["negative_prompt"] == "blue"


def test_a_folder_gets_one_file_per_sample_and_seeds_follow_each_other(paint, pipe):
    words = ["a dog", "a red heart", "--num-images", 2, "--seed", 5, "-o", "out", "--batch-size", 3]
    assert paint(*words).code == 0
    files = sorted(path.name for path in Path("out").iterdir())
    assert files == [
        "0-a-dog-seed5.png",
        "1-a-dog-seed6.png",
        "2-a-red-heart-seed7.png",
        "3-a-red-heart-seed8.png",
    ]
    expected = pipe(["a dog", "a red heart"], num_images_per_prompt=2, seed=5).images
    for name, image in zip(files, expected, strict=True):
        assert read_picture(f"out/{name}").tobytes() == image.tobytes()
    assert read_png_metadata(f"out/{files[2]}")["prompts"] == ["a red heart"]


def test_one_seed_per_sample_is_taken_in_their_order(paint, pipe):
    assert paint("a dog", "a red heart", "--seed", 9, 4, "-o", "out").code == 0
    files = sorted(path.name for path in Path("out").iterdir())
    assert files == ["0-a-dog-seed9.png", "1-a-red-heart-seed4.png"]
    assert read_picture(f"out/{files[1]}").tobytes() == pipe("a red heart", seed=4).images[0].tobytes()


def test_drawn_seeds_are_reported_and_make_the_picture_again(paint):
    assert paint("a dog", "-o", "a.png", "--json", "did.json").code == 0
    paint("a dog", "--seed", *read_json("did.json")["seeds"], "-o", "b.png")
    assert read_picture("a.png").tobytes() == read_picture("b.png").tobytes()


def test_a_sheet_of_clips_moves_as_a_whole(paint):
    assert paint("a dog", "a red heart", "--frames", 3, "--seed", 1, "-o", "both.webp").code == 0
    paint("a red heart", "--frames", 3, "--seed", 2, "-o", "one.webp")
    sheets, alone = frames_of("both.webp"), frames_of("one.webp")
    assert len(sheets) == 3
    with Image.open("both.webp") as film:
        width = film.width
    for sheet, frame in zip(sheets, alone, strict=True):
        enlarged = np.frombuffer(frame, np.uint8).reshape(16, 16, 3).repeat(8, 0).repeat(8, 1)
        rows = np.frombuffer(sheet, np.uint8).reshape(-1, width, 3)
        windows = np.lib.stride_tricks.sliding_window_view(rows[..., 0], (1, 128))[:, :, 0]
        assert (windows == enlarged[0, :, 0]).all(-1).any()


def test_a_first_frame_is_set_in_motion(paint, pipe, pictures):
    first = pictures / "train" / "food" / "fluent" / "0.png"
    answer = paint("a dog", "--first-frame", first, "--frames", 5, "--seed", 1, "-o", "a.webp", "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    expected = pipe("a dog", first_frame=first, num_frames=5, seed=1).frames[0]
    assert frames_of("a.webp") == [frame.tobytes() for frame in expected]
    assert read_json("did.json")["first_frame"] == str(first)
    given = from_pil(read_picture(first))
    assert expected[0].tobytes() == to_pil(pipe.decode(pipe.visual_tokenizer.encode(given)))[0].tobytes()


def test_a_first_frame_alone_asks_for_seventeen_frames(paint, pictures):
    first = pictures / "train" / "food" / "fluent" / "0.png"
    assert paint("--first-frame", first, "--seed", 1, "-o", "a.webp").code == 0
    assert len(frames_of("a.webp")) == 17


def test_a_first_frame_of_another_size_is_fitted_with_a_notice(paint):
    Image.new("RGB", (30, 20), (200, 30, 40)).save("wide.png")
    answer = paint("a dog", "--first-frame", "wide.png", "--frames", 3, "--seed", 1, "-o", "a.webp", "--batch-size", 1)
    assert answer.code == 0
    assert answer.err == (
        "note: the first frame is 20 x 30 (height x width), the clip 16 x 16; "
        "it was resized to cover the clip and cropped around its center\n"
    )


def test_a_negative_prompt_changes_the_picture_and_is_kept(paint, pipe):
    paint("a red heart", "--seed", 7, "-o", "a.png")
    paint("a red heart", "--negative-prompt", "a blue flag", "--seed", 7, "-o", "b.png")
    assert read_picture("b.png").tobytes() != read_picture("a.png").tobytes()
    expected = pipe("a red heart", negative_prompt="a blue flag", seed=7).images[0]
    assert read_picture("b.png").tobytes() == expected.tobytes()
    assert read_png_metadata("b.png")["settings"]["negative_prompt"] == "a blue flag"


def test_height_and_width_choose_the_size(paint):
    assert paint("a dog", "--height", 8, "--width", 20, "--seed", 1, "-o", "a.png").code == 0
    assert read_picture("a.png").size == (20, 8)


def test_json_says_what_was_done(paint):
    paint("a dog", "--frames", 3, "--num-images", 2, "--seed", 4, "-o", "a.gif", "--json", "did.json", "--adaptive")
    did = read_json("did.json")
    assert did["prompts"] == ["a dog", "a dog"]
    assert did["seeds"] == [4, 5]
    assert did["settings"]["num_frames"] == 3
    assert [len(trace) for trace in did["entropy"]] == did["num_steps"]
    assert did["files"] == ["a.gif"]
    assert did["seconds"] > 0


@pytest.mark.parametrize("frames", [1, 3])
def test_a_film_shows_every_step(paint, frames):
    output = "a.png" if frames == 1 else "a.webp"
    words = ["a dog", "a heart", "--frames", frames, "--seed", 1, "-o", output, "--film", "f.gif", "--json", "did.json"]
    answer = paint(*words)
    assert (answer.code, answer.err) == (0, "")
    did = read_json("did.json")
    assert len(frames_of("f.gif")) == max(did["num_steps"]) == 4
    assert did["files"] == [output, "f.gif"]


def test_a_prompt_of_ten_thousand_words_is_cut_with_a_notice_of_what_is_dropped(paint):
    prompt = " ".join(["red"] * 600 + [f"w{number}" for number in range(9400)])
    answer = paint(prompt, "--seed", 1, "-o", "a.png", "--batch-size", 1)
    assert answer.code == 0
    assert answer.err.startswith("note: a prompt may have up to 512 tokens; got 10002; dropped 9490 words: red red")
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 300


def test_words_for_the_other_kind_of_model_are_refused(genrefine, paint, model):
    answer = genrefine("generate", "a dog", "--model", model, "-o", "a.png")
    assert (answer.code, answer.out) == (2, "")
    assert f"'{model}' is a model of classes, which takes no PROMPT" in answer.err
    assert "--class-label asks a model of classes" in paint("a dog", "--class-label", "0", "-o", "a.png").err
    assert "is a model of prompts, which takes no --class-label" in paint("--class-label", "0", "-o", "a.png").err
    assert "this needs a model of classes" in paint("--list-classes").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], "the prompt is empty; say what to make"),
        (["a dog", "  "], "the prompt is empty"),
        (["a \x07dog"], "control character U+0007 at position 2"),
        (["a dog", "--negative-prompt", "\x1b"], "control character U+001B"),
        (["a dog", "--frames", "4"], "nearest 3 or 5"),
        (["a dog", "--frames", "0"], "frames"),
        (["a dog", "--height", "15"], "height must be a multiple of 4"),
        (["a dog", "--width", "0"], "width"),
        (["a dog", "--frames", "3", "-o", "a.png"], "a clip is written as .mp4, .webp or .gif"),
        (["a dog", "-o", "a.mp4"], "pictures are written as .png"),
        (["a dog", "--first-frame", "missing.png"], "missing.png"),
        (["a dog", "--first-frame", "text.png"], "text.png"),
        (["a dog", "--first-frame", "text.png", "--frames", "1"], "a first frame needs frames after it"),
        (["a dog", "--guidance-scale", "nan"], "guidance_scale must be a finite number"),
        (["--guidance-scale", "3"], "guidance needs a prompt"),
        (["a dog", "a heart", "--seed", "1", "2", "3"], "one for each of the 2 pictures; got 3"),
        (["a dog", "--num-images", "10", "--film", "f.gif"], "at most 9 pictures; got 10"),
        (["a dog", "--adaptive", "--num-inference-steps", "3"], "not allowed with"),
    ],
)
def test_wrong_requests_end_in_one_line_and_code_2(paint, tmp_path, words, message):
    (tmp_path / "text.png").write_text("no picture")
    answer = paint(*words)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["text.png"]


@pytest.mark.parametrize("words", [["--frames", "13"], ["--first-frame", "a.png"]])
def test_a_model_of_stills_makes_no_clips(genrefine, still_model, words):
    Image.new("RGB", (16, 16)).save("a.png")
    answer = genrefine("generate", "a dog", "--model", still_model, *words)
    assert (answer.code, answer.out) == (2, "")
    assert "this model makes stills only" in answer.err
    assert "nearest num_frames 1" in answer.err
    assert answer.err.count("\n") == 1


def test_a_text_encoder_of_another_width_is_refused(genrefine, text_model, tmp_path):
    shutil.copytree(text_model, tmp_path / "m")
    index = json.loads((tmp_path / "m" / "model_index.json").read_text())
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=32, **sizes)).save_pretrained(tmp_path / "m" / "text_encoder")
    (tmp_path / "m" / "checksums.json").unlink()
    assert index["_class_name"] == ["pipeline", "TextPipeline"]
    answer = genrefine("generate", "a dog", "--model", "m", "-o", "a.png")
    assert (answer.code, answer.out) == (2, "")
    assert "the refiner reads 24 channels, the encoder gives 32" in answer.err
    assert answer.err.count("\n") == 1


def test_the_shipped_text_model_is_the_default_and_classes_ask_for_the_other(
    genrefine, text_model, monkeypatch, tmp_path
):
    shutil.copytree(text_model, tmp_path / "zoo" / "emoji")
    tiny_pipeline().save_pretrained(tmp_path / "zoo" / "emoji-class")
    monkeypatch.setattr("genrefine.model_folder.find.SHIPPED", tmp_path / "zoo")
    assert genrefine("generate", "a red heart", "--seed", 7).code == 0
    assert genrefine("generate", "--class-label", "0", "--seed", 7, "-o", "b.png").code == 0
    assert read_png_metadata("a-red-heart-seed7.png")["model"] == "emoji"
    assert read_png_metadata("b.png")["model"] == "emoji-class"
    assert isinstance(zoo.load("emoji"), TextPipeline)


def test_what_has_come_is_in_the_folder_whatever_becomes_of_the_rest(paint, monkeypatch):
    plain, calls = TextPipeline.run, []

    def interrupted(self, request, rows=None, **options):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, request, rows, **options)

    monkeypatch.setattr(TextPipeline, "run", interrupted)
    answer = paint(*"abcde", "--seed", 1, "--batch-size", 2, "--num-inference-steps", 1, "-o", "made")
    assert answer.code == 130
    assert sorted(path.name for path in Path("made").iterdir()) == [
        f"{i}-{c}-seed{i + 1}.png" for i, c in enumerate("abcd")
    ]
    assert read_png_metadata("made/3-d-seed4.png")["prompts"] == ["d"]


def test_prompts_come_from_a_file_or_from_standard_input(paint, monkeypatch):
    Path("prompts.txt").write_text("a red heart\n\n  dog  \n", encoding="utf-8")
    assert paint("--prompts", "prompts.txt", "--seed", 1, "-o", "made").code == 0
    assert sorted(path.name for path in Path("made").iterdir()) == ["0-a-red-heart-seed1.png", "1-dog-seed2.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("dog\n"))
    assert paint("--prompts", "-", "--seed", 2, "-o", "one.png").code == 0
    assert read_picture("one.png").tobytes() == read_picture("made/1-dog-seed2.png").tobytes()
    Path("empty.txt").write_text("\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\xfa")
    for words, message in (
        (["--prompts", "empty.txt"], "holds no prompts"),
        (["--prompts", "binary.txt"], "cannot read prompts from 'binary.txt'"),
        (["--prompts", "none.txt"], "cannot read prompts from 'none.txt'"),
        (["dog", "--prompts", "prompts.txt"], "leave PROMPT out"),
        (["--interactive", "--prompts", "prompts.txt"], "leave --interactive out"),
        (["--interactive", "-o", "a.png"], "give a folder"),
    ):
        answer = paint(*words)
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert message in answer.err


def test_an_interactive_loop_makes_a_file_a_line_and_passes_over_what_cannot_be_made(paint, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("dog\nbell\aring\na red heart\n\nnot read\n"))
    answer = paint("--interactive", "--seed", 4)
    assert answer.code == 0
    assert sorted(path.name for path in Path().glob("*.png")) == ["a-red-heart-seed4.png", "dog-seed4.png"]
    assert answer.err.splitlines()[-1].startswith("genrefine generate: a prompt must be readable text")
