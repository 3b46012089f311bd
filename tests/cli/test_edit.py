"""Laws of `genrefine edit`."""

import io
from pathlib import Path

import pytest
from PIL import Image

from genrefine import TextPipeline
from genrefine.media.writing import read_clip_metadata, read_png_metadata
from reading import read_json, read_picture


@pytest.fixture
def edit(genrefine, text_model, tmp_path):
    """Return a function that edits `a.png` with the tiny text model; `mask.png` is its left half."""
    Image.effect_noise((16, 16), 90).convert("RGB").save("a.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 16))
    mask.save("mask.png")
    return lambda *words: genrefine("edit", *words, "--model", text_model)


def test_an_edit_is_the_pipelines_own_and_says_what_it_did(edit, text_model):
    answer = edit("a.png", "dog", "--mask", "mask.png", "--seed", 7, "-o", "b.png", "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("dog: 50% of the codes made anew in ")
    pipe = TextPipeline.from_pretrained(text_model)
    own = pipe("dog", image="a.png", mask_image="mask.png", seed=7)
    assert read_picture("b.png").tobytes() == own.images[0].tobytes()
    did = read_json("did.json")
    assert did["settings"]["strength"] == 1.0
    assert (did["picture"], did["mask"], did["files"]) == ("a.png", "mask.png", ["b.png"])
    assert read_png_metadata("b.png")["settings"] == own.settings


def test_several_results_go_into_a_folder_or_a_sheet(edit):
    assert edit("a.png", "dog", "--num-images", 2, "--seed", 3, "-o", "made").code == 0
    assert sorted(path.name for path in Path("made").iterdir()) == ["0-dog-seed3.png", "1-dog-seed4.png"]
    assert edit("a.png", "dog", "--num-images", 2, "--seed", 3, "-o", "sheet.png").code == 0
    assert read_picture("sheet.png").width > 32


def test_what_a_prompt_would_change_is_found_written_and_changed(edit):
    answer = edit("a.png", "dog", "--from", "a red heart", "--seed", 1, "-o", "b.png", "--map", "map.png")
    assert answer.code == 0
    assert read_picture("map.png").size == (16, 16)
    notes = read_png_metadata("b.png")
    assert notes["from"] == "a red heart"
    nothing = edit("a.png", "dog", "--from", "a red heart", "--threshold", 99, "--seed", 1, "-o", "c.png")
    assert "dog: 0% of the codes made anew" in nothing.out
    assert read_picture("c.png").tobytes() == read_picture("a.png").tobytes()


def test_a_variation_paints_a_share_of_the_codes_anew(edit):
    by_entropy = edit("a.png", "dog", "--vary", 0.25, "--seed", 1, "-o", "b.png", "--map", "map.png")
    assert (by_entropy.code, by_entropy.err) == (0, "")
    assert "dog: 25% of the codes made anew" in by_entropy.out
    assert edit("a.png", "dog", "--vary", 0.25, "--by", "random", "--seed", 1, "-o", "c.png").code == 0
    assert edit("a.png", "dog", "--vary", 0.25, "--by", "random", "--seed", 2, "-o", "d.png").code == 0
    made = [read_picture(name).tobytes() for name in ("a.png", "b.png", "c.png", "d.png")]
    assert len(set(made)) == 4
    assert read_png_metadata("c.png")["vary"] == 0.25
    assert read_png_metadata("c.png")["by"] == "random"
    assert read_picture("map.png").size == (16, 16)


def test_prompts_come_from_a_file_or_one_by_one(edit, monkeypatch):
    Path("prompts.txt").write_text("dog\n\na red heart\n")
    answer = edit("a.png", "--prompts", "prompts.txt", "--from", "pizza", "--seed", 3, "-o", "made", "--map", "map.png")
    assert (answer.code, answer.err) == (0, "")
    assert sorted(path.name for path in Path("made").iterdir()) == ["0-dog-seed3.png", "1-a-red-heart-seed4.png"]
    assert edit("a.png", "dog", "--from", "pizza", "--seed", 3, "-o", "alone.png").code == 0
    assert read_picture("made/0-dog-seed3.png").tobytes() == read_picture("alone.png").tobytes()
    monkeypatch.setattr("sys.stdin", io.StringIO("dog\nbell\aring\na red heart\n\nnever\n"))
    asked = edit("a.png", "--interactive", "--mask", "mask.png", "--seed", 3, "-o", "asked")
    assert asked.code == 0
    assert asked.err.count("\n") == 1
    assert sorted(path.name for path in Path("asked").iterdir()) == ["0-a-red-heart-seed3.png", "0-dog-seed3.png"]


def test_a_clip_is_mended_where_its_codes_are_unlikely(edit):
    assert edit("a.png", "dog", "--frames", 5, "--seed", 1, "-o", "clip.webp").code == 0
    words = ("--mend", "--frames", 5, "--seed", 2, "-o", "mended.webp", "--map", "map.png")
    answer = edit("clip.webp", "dog", *words)
    assert (answer.code, answer.err) == (0, "")
    assert read_picture("map.png").width > 5 * 16


def test_a_picture_becomes_the_beginning_of_a_clip(edit):
    assert edit("a.png", "dog", "--frames", 5, "--seed", 1, "-o", "b.webp").code == 0
    with Image.open("b.webp") as clip:
        assert clip.n_frames == 5
        assert clip.convert("RGB").tobytes() == read_picture("a.png").convert("RGB").tobytes()
    assert read_clip_metadata("b.webp")["picture"] == "a.png"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.png", "dog", "-o", "b.png"], "'none.png' is no file"),
        (["words.txt", "dog", "-o", "b.png"], "cannot read picture 'words.txt'"),
        (["a.png", "dog", "-o", "a.png"], "--output would replace 'a.png'"),
        (["a.png", "dog", "--mask", "mask.png", "-o", "mask.png"], "--output would replace 'mask.png'"),
        (["a.png", "dog", "--mend", "--map", "a.png", "-o", "b.png"], "--map would replace 'a.png'"),
        (["a.png", "dog", "--json", "a.png", "-o", "b.png"], "--json would replace 'a.png'"),
        (["a.png", "dog", "--num-images", "10", "--film", "f.gif", "-o", "b.png"], "a film shows at most 9 pictures"),
        (["a.png", "dog", "-o", "b.jpg"], "pictures are written as .png"),
        (["a.png", "dog", "-o", "b.png", "--strength", "1.5"], "--strength must lie in 0 .. 1; got 1.5"),
        (["a.png", "dog", "-o", "b.png", "--mask", "black.png"], "is all black, so nothing would change"),
        (["a.png", "dog", "-o", "b.png", "--mask", "small.png"], "must have the size of the picture, 16 x 16"),
        (["a.png", "dog", "-o", "b.png", "--mask", "a.png", "--mend"], "not allowed with argument"),
        (["a.png", "dog", "-o", "b.png", "--threshold", "1"], "--threshold belongs to --from or --mend"),
        (["a.png", "dog", "-o", "b.png", "--map", "m.png"], "--map belongs to --from, --mend or --vary"),
        (["a.png", "dog", "-o", "b.png", "--mend", "--map", "m.jpg"], "--map is written as .png"),
        (["a.png", "dog", "-o", "b.png", "--mend", "--map", "b.png"], "both write 'b.png'"),
        (["a.png", "dog", "-o", "b.webp", "--mend", "--frames", "3"], "image must hold all 3 frames; got 1"),
        (["a.png", "dog", "pizza", "-o", "b", "--mend", "--frames", "3"], "for one prompt at a time"),
        (["a.png", "dog", "-o", "b.png", "--vary", "1.5"], "--vary is the share of codes"),
        (["a.png", "dog", "-o", "b.png", "--vary", "0"], "--vary is the share of codes"),
        (["a.png", "dog", "-o", "b.png", "--vary", "0.5", "--mask", "a.png"], "not allowed with argument"),
        (["a.png", "dog", "-o", "b.png", "--by", "random"], "--by says which codes --vary paints anew"),
        (["a.png", " ", "-o", "b.png"], "the prompt is empty"),
        (["a.png", "dog", "--prompts", "words.txt", "-o", "b.png"], "leave PROMPT out"),
        (["a.png", "--prompts", "none.txt", "-o", "b.png"], "cannot read prompts from 'none.txt'"),
        (["a.png", "dog", "--interactive", "-o", "made"], "--interactive asks for prompts"),
        (["a.png", "--interactive", "-o", "b.png"], "and give a folder"),
        (["a.png", "dog", "-o", "b.png", "--outpaint", "1", "2", "-3", "4"], "outpaint must be four numbers"),
        (["a.png", "dog", "-o", "b.png", "--class-label", "0"], "give one of them"),
        (["a.png", "-o", "b.png", "--class-label", "0"], "is a model of prompts"),
    ],
)
def test_wrong_edits_end_in_one_line_and_code_2(edit, words, message):
    Path("words.txt").write_text("no picture")
    Image.new("L", (16, 16)).save("black.png")
    Image.new("L", (8, 16), 255).save("small.png")
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    answer = edit(*words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
