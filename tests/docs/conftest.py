"""A place in which the documents' examples run: a small shipped model, a few real pictures, a folder of photos."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.docs.documents import CHECKOUT
from tests.docs.stand_in import stand_in, stand_in_of_prompts


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds what the documents' commands expect around them; tests copy it."""
    folder = tmp_path_factory.mktemp("furnished")
    pipeline = stand_in()
    pipeline.save_pretrained(folder / "zoo" / "emoji-class")
    shutil.copytree(folder / "zoo" / "emoji-class", folder / "place" / "runs" / "class" / "pipeline")
    stand_in_of_prompts().save_pretrained(folder / "zoo" / "emoji")
    pipeline.visual_tokenizer.save_pretrained(folder / "place" / "runs" / "tokenizer" / "tokenizer")
    data = folder / "place" / "datasets" / "emoji"
    (data / "data").mkdir(parents=True)
    shutil.copy(CHECKOUT / "datasets" / "emoji" / "README.md", data)
    table = pq.read_table(CHECKOUT / "datasets" / "emoji" / "data" / "concept-00000-of-00001.parquet")
    base = [row for row, tone in enumerate(table["skin_tone"].to_pylist()) if not tone]
    for split in ("train", "concept", "pair"):
        pq.write_table(table.take(base[::8]), data / "data" / f"{split}-00000-of-00001.parquet")
    clips = folder / "place" / "datasets" / "emoji-clips"
    (clips / "data").mkdir(parents=True)
    shutil.copy(CHECKOUT / "datasets" / "emoji-clips" / "README.md", clips)
    table = pq.read_table(CHECKOUT / "datasets" / "emoji-clips" / "data" / "concept-00000-of-00001.parquet")
    for split in ("train", "concept", "pair"):
        pq.write_table(table.slice(0, 3), clips / "data" / f"{split}-00000-of-00001.parquet")
    draws = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / "place" / "photos" / name).mkdir(parents=True)
        for index in range(4):
            photo = Image.fromarray(draws.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            photo.resize((90, 75)).save(folder / "place" / "photos" / name / f"{index}.jpg")
    Image.fromarray(draws.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(folder / "place" / "picture.png")
    furnish_captions(folder / "place", draws)
    return folder


def furnish_captions(place: Path, draws: np.random.Generator) -> None:
    """Write captioned pictures and captioned moving pictures of six frames."""
    for kind, count in (("captioned", 1), ("films", 6)):
        (place / kind).mkdir()
        lines = []
        for index, words in enumerate(("a red boat", "a blue boat", "a dog", "a cat")):
            frames = [
                Image.fromarray(draws.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((60, 45))
                for _ in range(count)
            ]
            name = f"{index}.webp"
            moving = {"save_all": True, "append_images": frames[1:], "duration": 80} if count > 1 else {}
            frames[0].save(place / kind / name, lossless=True, **moving)
            lines.append(json.dumps({"file_name": name, "text": words}))
        (place / kind / "metadata.jsonl").write_text("\n".join(lines))


@pytest.fixture
def place(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, which becomes the current one, and let the stand-in ship in it."""
    shutil.copytree(furnished / "place", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genrefine.model_folder.find.SHIPPED", furnished / "zoo")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", furnished / "cache")
    return tmp_path
