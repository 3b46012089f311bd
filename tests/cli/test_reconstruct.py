"""Laws of `genrefine reconstruct`."""

import math

import numpy as np
import pytest
from PIL import Image

from genrefine import VisualTokenizer
from genrefine.media.pixels import from_pil, to_pil
from genrefine.media.writing import read_png_metadata
from reading import read_json, read_picture


@pytest.fixture
def picture(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, (21, 18, 3), dtype=np.uint8)
    Image.fromarray(content).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_picture_of_any_size_comes_back_in_its_size(genrefine, model, picture):
    answer = genrefine("reconstruct", picture, "--model", model, "-o", "back.png", "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    assert read_picture("back.png").size == (18, 21)
    did = read_json("did.json")
    # 6 x 5 positions of 4 binary channels.
    assert did["bits"] == 120
    assert did["bits_per_pixel"] == pytest.approx(120 / (18 * 21))
    error = np.asarray(read_picture("back.png"), float) - np.asarray(read_picture(picture), float)
    assert did["psnr"] == pytest.approx(10 * math.log10(255**2 / np.square(error).mean()), abs=0.01)
    assert 0 < did["ssim"] < 1
    assert f"PSNR            {did['psnr']:.2f} dB" in answer.out
    assert "padded to 20 x 24" in answer.out
    assert read_png_metadata("back.png")["psnr"] == did["psnr"]


def test_a_fitting_picture_is_what_the_tokenizer_returns(genrefine, model, tmp_path):
    content = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(content).save(tmp_path / "photo.png")
    answer = genrefine("reconstruct", "photo.png", "--model", model / "visual_tokenizer", "-o", "back.png")
    assert "padded" not in answer.out
    tokenizer = VisualTokenizer.from_pretrained(model / "visual_tokenizer")
    expected = to_pil(tokenizer.decode(tokenizer.encode(from_pil(Image.fromarray(content)))))[0]
    assert read_picture("back.png").tobytes() == expected.tobytes()


def test_transparent_pixels_take_the_stated_color(genrefine, model, tmp_path):
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "red.png")
    genrefine("reconstruct", "clear.png", "--model", model, "-o", "a.png", "--background", "red")
    genrefine("reconstruct", "red.png", "--model", model, "-o", "b.png")
    assert read_picture("a.png").tobytes() == read_picture("b.png").tobytes()


def test_a_picture_too_small_for_ssim_is_still_measured(genrefine, model, tmp_path):
    Image.new("RGB", (3, 2), (255, 0, 0)).save(tmp_path / "dot.png")
    answer = genrefine("reconstruct", "dot.png", "--model", model, "-o", "a.png")
    assert answer.code == 0
    assert "SSIM            needs 11 pixels a side" in answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.png", "-o", "a.png"], "missing.png"),
        (["text.png", "-o", "a.png"], "cannot read picture 'text.png'"),
        (["photo.png", "-o", "a.jpg"], "written as .png"),
        (["photo.png", "-o", "text.png/a.png"], "cannot write"),
        (["photo.png", "-o", "a.png", "--json", "text.png/a.json"], "cannot write"),
        (["photo.png", "-o", "a.png", "--model", "nowhere"], "no model at 'nowhere'"),
        (["photo.png", "-o", "a.png", "--background", "colorless"], "background must be a color"),
        (["photo.png"], "required: -o/--output"),
    ],
)
def test_wrong_requests_end_in_one_line_and_code_2(genrefine, model, picture, tmp_path, words, message):
    (tmp_path / "text.png").write_text("no picture")
    answer = genrefine("reconstruct", "--model", model, *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
