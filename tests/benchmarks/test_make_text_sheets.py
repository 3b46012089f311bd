"""The sheets of a text model show what their names promise."""

import importlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from genrefine.media.writing import read_clip_metadata, read_png_metadata
from tiny_models import tiny_text_pipeline

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Draw sheets of a tiny model from tiny sets of captioned pictures and clips and return their folder."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    generator = np.random.default_rng(0)
    for kind, splits in (("stills", ("pair",)), ("films", ("pair", "concept"))):
        for split in splits:
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            lines = []
            for number in range(3):
                noise = generator.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
                frames = [Image.fromarray(frame) for frame in noise]
                content = io.BytesIO()
                moving = {"save_all": True, "append_images": frames[1:], "duration": 80} if kind == "films" else {}
                frames[0].save(content, "WEBP", lossless=True, **moving)
                (folder / f"{number}.webp").write_bytes(content.getvalue())
                row = {"file_name": f"{number}.webp", "captions": [f"red heart {number}", "dog"]}
                lines.append(json.dumps(row))
            (folder / "metadata.jsonl").write_text("\n".join(lines))
    tiny_text_pipeline(num_inference_steps=2).save_pretrained(tmp_path / "model")

    def main(*arguments: str) -> Path:
        sheets = importlib.import_module("make_text_sheets")
        sources = ["--data", tmp_path / "stills", "--clips", tmp_path / "films", "--keep", "--frames", 5]
        given = ["--model", tmp_path / "model", *sources, "--out", tmp_path / "out", "--quiet"]
        sheets.main([*map(str, given), *arguments])
        return tmp_path / "out"

    return main


def test_all_sheets_are_drawn_and_small(make, capsys):
    out = make()
    files = ["clips.png", "clips.webp", "first_frames.png", "first_frames.webp", "held_out_pairs.png", "prompts.png"]
    assert sorted(path.name for path in out.iterdir()) == [*files, "text_refinement.gif"]
    printed = capsys.readouterr().out
    for path in out.iterdir():
        assert f"{path}  " in printed
        with Image.open(path) as sheet:
            assert len(sheet.convert("RGB").getcolors(2**24)) > 20
    with Image.open(out / "text_refinement.gif") as film:
        assert film.n_frames == 24
    with Image.open(out / "clips.webp") as film:
        assert film.n_frames == 5


def test_prompts_come_in_every_style_with_seeds_in_order_and_stand_in_their_row(make):
    out = make("--only", "prompts", "--seed", "7")
    made = read_png_metadata(out / "prompts.png")
    assert made["seeds"] == list(range(7, 7 + 12 * 3 * 3))
    assert made["prompts"][:4] == 3 * ["noto emoji of red heart"] + ["twemoji emoji of red heart"]
    pipe = tiny_text_pipeline(num_inference_steps=2)
    # The first rows of pixels of two pictures that stand beside each other are found in one row of the sheet.
    first, second = (pipe(made["prompts"][n], seed=7 + n).images[0].tobytes()[:48] for n in (9, 10))
    with Image.open(out / "prompts.png") as opened:
        sheet = opened.convert("RGB").tobytes()
    place = sheet.find(first)
    assert place > 0
    assert sheet[place + 3 * (16 + 6) :][:48] == second


def test_first_frames_are_those_of_held_out_clips_and_come_back_in_the_animation(make, tmp_path):
    out = make("--only", "first_frames", "--seed", "3")
    made = read_clip_metadata(out / "first_frames.webp")
    assert sorted(made["first_frames"]) == ["0.webp", "1.webp", "2.webp"]
    pipe = tiny_text_pipeline(num_inference_steps=2)
    file = tmp_path / "films" / "concept" / made["first_frames"][0]
    expected = pipe(made["prompts"][0], first_frame=file, num_frames=5, seed=3).frames[0]
    with Image.open(out / "first_frames.webp") as film:
        moments = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    for moment, frame in zip(moments, expected, strict=True):
        assert np.array_equal(moment[4:36:2, 4:36:2], np.asarray(frame))


def test_held_out_pairs_stand_below_the_real_pictures(make, tmp_path):
    out = make("--only", "held_out_pairs")
    made = read_png_metadata(out / "held_out_pairs.png")
    with Image.open(out / "held_out_pairs.png") as opened:
        sheet = np.asarray(opened.convert("RGB"))
    real = np.asarray(Image.open(tmp_path / "stills" / "pair" / made["pictures"][0]).convert("RGB"))
    drawn = np.asarray(tiny_text_pipeline(num_inference_steps=2)(made["prompts"][0], seed=0).images[0])
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (16, 16))
    (above,), (below,) = (np.argwhere((windows == picture[..., 0]).all((-1, -2))).tolist() for picture in (real, drawn))
    assert below == [above[0] + 16 + 6, above[1]]


def test_equal_seeds_draw_equal_sheets(make):
    first = (make("--only", "clips") / "clips.webp").read_bytes()
    assert (make("--only", "clips") / "clips.webp").read_bytes() == first
