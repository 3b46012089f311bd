"""The sheets show what their names promise."""

import importlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from genrefine.data import ImageSource
from genrefine.errors import GenrefineError
from genrefine.evaluation.features import EfficientNetFeatures
from genrefine.evaluation.neighbors import nearest_neighbors
from genrefine.evaluation.pixels import psnr
from genrefine.media.pixels import from_pil
from genrefine.media.writing import read_png_metadata
from tiny_models import CLASS_NAMES, tiny_pipeline

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Draw sheets of a tiny model from a tiny data set and return their folder."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 3), ("concept", 1)):
        for name in CLASS_NAMES:
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                small = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8)
                picture = Image.fromarray(small.numpy()).resize((16, 16))
                picture.save(folder / f"{number}.png")
    tiny_pipeline().save_pretrained(tmp_path / "model")

    def main(*arguments: str, model: Path = tmp_path / "model") -> Path:
        sheets = importlib.import_module("make_sheets")
        given = ["--model", model, "--data", tmp_path / "data", "--out", tmp_path / "out", "--keep", "--quiet"]
        sheets.main([*map(str, given), *arguments])
        return tmp_path / "out"

    return main


def test_all_sheets_are_drawn_and_small(make, capsys):
    out = make()
    files = ["reconstructions.png", "samples.png", "neighbors.png", "fixed_adaptive.png", "refinement.gif"]
    assert sorted(path.name for path in out.iterdir()) == sorted(files)
    printed = capsys.readouterr().out
    for file in files:
        assert f"{out / file}  " in printed
        with Image.open(out / file) as sheet:
            assert len(sheet.convert("RGB").getcolors(2**24)) > 20
    with Image.open(out / "refinement.gif") as film:
        assert film.n_frames == 24


def test_reconstructions_are_of_held_out_pictures_and_state_their_psnr(make, tmp_path):
    made = read_png_metadata(make("--only", "reconstructions") / "reconstructions.png")
    source = ImageSource(tmp_path / "data", split="concept")
    pixels = torch.stack([source[index][0] for index in range(len(source))])
    tokenizer = tiny_pipeline().visual_tokenizer
    expected = psnr(tokenizer.decode(tokenizer.encode(pixels)), pixels).mean().item()
    assert made["psnr"] == pytest.approx(expected, rel=1e-4)
    assert made["bits_per_pixel"] == 0.25


def test_the_samples_sheet_holds_the_pictures_of_its_seeds_in_rows_of_groups_and_columns_of_styles(make):
    out = make("--only", "samples", "--seed", "7")
    made = read_png_metadata(out / "samples.png")
    assert made["seeds"] == list(range(7, 31))
    sheet = Image.open(out / "samples.png").convert("RGB").tobytes()
    # The first rows of pixels of two pictures that stand beside each other are found in one row of the sheet.
    first, second = (tiny_pipeline()("flags/noto", seed=seed).images[0].tobytes()[:48] for seed in (15, 16))
    place = sheet.find(first)
    assert place > 0
    assert sheet[place + 3 * (16 + 6) :][:48] == second


def test_neighbors_are_the_nearest_training_pictures(make, tmp_path):
    made = read_png_metadata(make("--only", "neighbors") / "neighbors.png")
    training = ImageSource(tmp_path / "data", split="train")
    extractor = EfficientNetFeatures()
    with torch.no_grad():
        references = torch.cat([extractor(training[index][0].transpose(0, 1)) for index in range(len(training))])
        image = tiny_pipeline()(made["labels"][5], seed=5).images[0]
        query = extractor(from_pil(image)[:, :, 0])
    found = nearest_neighbors(query, references, 4)
    assert made["neighbors"][5] == [training.names[index] for index in found.indices[0].tolist()]
    assert len(made["neighbors"]) == 16


def test_fixed_and_adaptive_show_the_same_seeds_with_their_own_steps(make):
    made = read_png_metadata(make("--only", "fixed_adaptive") / "fixed_adaptive.png")
    assert set(made["fixed"]["num_steps"]) == {4}
    expected = tiny_pipeline()(made["labels"], seed=made["seeds"], adaptive=True).num_steps
    assert made["adaptive"]["num_steps"] == expected


def test_a_model_that_was_never_calibrated_has_no_adaptive_sheet(make, tmp_path):
    tiny_pipeline(entropy_steps=None).save_pretrained(tmp_path / "other")
    with pytest.raises(GenrefineError, match="needs a calibrated model"):
        make("--only", "fixed_adaptive", model=tmp_path / "other")
