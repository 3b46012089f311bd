"""Benchmarks: the folders that their scorers read, whole, continued, and the same whoever draws them."""

import json

import pytest
from PIL import Image

from genrefine.errors import GenrefineError
from genrefine.evaluation.suites import LAYOUTS, draw_suite, read_suite
from genrefine.media.writing import read_png_metadata
from tiny_models import tiny_text_pipeline

LINES = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "dog"},
    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "prompt": "two hearts"},
    {"tag": "colors", "include": [], "prompt": "a flag: red, green"},
]


@pytest.fixture(scope="module")
def pipe():
    made = tiny_text_pipeline(num_inference_steps=2)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "evaluation_metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (tmp_path / "dpg").mkdir()
    for name, words in (("10", "a dog"), ("2", "a heart"), ("stage12", "a flag")):
        (tmp_path / "dpg" / f"{name}.txt").write_text(words + "\n")
    (tmp_path / "all_dimension.txt").write_text("a dog runs\n\na heart beats\na dog runs\n")
    (tmp_path / "full_info.json").write_text(json.dumps([{"prompt_en": "a dog runs", "dimension": ["x"]}]))
    return tmp_path


def opened(path):
    with Image.open(path) as picture:
        return picture.copy()


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_geneval_gets_a_folder_for_each_prompt_with_its_line(pipe, asked):
    suite = read_suite("geneval", asked / "evaluation_metadata.jsonl")
    assert draw_suite(pipe, suite, asked / "out", 3, progress=False) == 3
    for number, line in enumerate(LINES):
        place = asked / "out" / f"{number:05d}"
        assert json.loads((place / "metadata.jsonl").read_text()) == line
        pictures = sorted((place / "samples").iterdir())
        assert [path.name for path in pictures] == ["0000.png", "0001.png", "0002.png", "0003.png"]
        for index, path in enumerate(pictures):
            alone = pipe(line["prompt"], seed=4 * number + index).images[0]
            assert opened(path).tobytes() == alone.tobytes()
            assert read_png_metadata(path) == {"prompt": line["prompt"], "seed": 4 * number + index}


def test_dpg_gets_four_pictures_as_a_square(pipe, asked):
    suite = read_suite("dpg", asked / "dpg")
    draw_suite(pipe, suite, asked / "out", progress=False)
    names = ["10", "2", "stage12"]
    assert [prompt.name for prompt in suite.prompts] == names
    sheet = opened(asked / "out" / "2.png")
    assert sheet.size == (32, 32)
    for index, corner in enumerate([(0, 0), (16, 0), (0, 16), (16, 16)]):
        alone = pipe("a heart", seed=4 + index).images[0]
        assert sheet.crop((*corner, corner[0] + 16, corner[1] + 16)).tobytes() == alone.tobytes()
    draw_suite(pipe, read_suite("dpg", asked / "dpg", count=1), asked / "single", progress=False)
    assert opened(asked / "single" / "2.png").size == (16, 16)


def test_vbench_gets_clips_named_by_prompt_and_number(pipe, asked):
    suite = read_suite("vbench", asked / "all_dimension.txt", count=2, num_frames=3)
    draw_suite(pipe, suite, asked / "out", progress=False)
    names = sorted(path.name for path in (asked / "out").glob("*.mp4"))
    assert names == ["a dog runs-0.mp4", "a dog runs-1.mp4", "a heart beats-0.mp4", "a heart beats-1.mp4"]
    assert read_suite("vbench", asked / "full_info.json", num_frames=3).count == LAYOUTS["vbench"] == 5


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_run_goes_on_with_any_batch_size_and_gives_the_same_files(pipe, asked, batch_size):
    suite = read_suite("geneval", asked / "evaluation_metadata.jsonl", count=2)
    draw_suite(pipe, suite, asked / "whole", 4, progress=False)
    first = read_suite("geneval", asked / "evaluation_metadata.jsonl", count=2)

    class Stops:
        """Stop at the second call."""

        def __init__(self):
            self.calls = 0

        def __getattr__(self, name):
            return getattr(pipe, name)

        def __call__(self, *what, **how):
            self.calls += 1
            if self.calls > 1:
                raise KeyboardInterrupt
            return pipe(*what, **how)

    with pytest.raises(KeyboardInterrupt):
        draw_suite(Stops(), first, asked / "out", 2, progress=False)
    assert (asked / "out" / "00000").is_dir()
    assert not (asked / "out" / "00001").exists()
    assert draw_suite(pipe, first, asked / "out", batch_size, progress=False) == 2
    assert contents(asked / "out") == contents(asked / "whole")
    assert draw_suite(pipe, first, asked / "out", batch_size, progress=False) == 0


def test_processes_share_the_prompts(pipe, asked, monkeypatch):
    suite = read_suite("geneval", asked / "evaluation_metadata.jsonl", count=1)
    draw_suite(pipe, suite, asked / "whole", progress=False)
    monkeypatch.setattr("genrefine.evaluation.suites.meet", lambda processes: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert draw_suite(pipe, suite, asked / "out", progress=False) == 1  # the second prompt
    assert [path.name for path in (asked / "out").iterdir()] == ["00001"]
    monkeypatch.setenv("RANK", "0")
    draw_suite(pipe, suite, asked / "out", progress=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    draw_suite(pipe, suite, asked / "out", progress=False)
    assert contents(asked / "out") == contents(asked / "whole")


def test_another_run_is_refused(pipe, asked):
    suite = read_suite("dpg", asked / "dpg", count=1)
    draw_suite(pipe, suite, asked / "out", progress=False)
    with pytest.raises(GenrefineError, match=r"another run .different sampling."):
        draw_suite(pipe, suite, asked / "out", progress=False, temperature=0.5)
    (asked / "dpg" / "2.txt").write_text("a rocket")
    with pytest.raises(GenrefineError, match=r"another run .different prompts."):
        draw_suite(pipe, read_suite("dpg", asked / "dpg", count=1), asked / "out", progress=False)


def test_what_is_no_benchmark_is_refused(asked):
    (asked / "empty.txt").write_text("\n\n")
    (asked / "path.txt").write_text("../up\n")
    (asked / "list.jsonl").write_text("[1, 2]\n")
    cases = [
        (("coco", asked / "dpg"), "layout must be one of geneval, dpg, vbench; got 'coco'"),
        (("geneval", asked / "nothing.jsonl"), "cannot be read"),
        (("geneval", asked / "all_dimension.txt"), "cannot be read"),
        (("geneval", asked / "list.jsonl"), "cannot be read"),
        (("dpg", asked / "all_dimension.txt"), "it holds none"),
        (("vbench", asked / "empty.txt", None, 3), "it holds none"),
        (("vbench", asked / "path.txt", None, 3), "words that a file can be named by; got '../up'"),
        (("vbench", asked / "all_dimension.txt"), "vbench scores clips, geneval and dpg stills; got 1 frames"),
        (("dpg", asked / "dpg", 4, 3), "geneval and dpg stills; got 3 frames"),
        (("dpg", asked / "dpg", 3), "one picture a prompt, or four as a square; got 3"),
    ]
    for arguments, message in cases:
        with pytest.raises(GenrefineError, match=message):
            read_suite(*arguments)
