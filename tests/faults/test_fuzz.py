"""Malformed files end in one line: each case alters one file of a good folder and opens it.

`GENREFINE_FUZZ=N` makes N times as many cases (`make fuzz`); the seed is fixed, so that a case that fails comes again.
"""

import hashlib
import json
import os
import random
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from fuzzing import altered, restored
from PIL import Image

import genrefine
from genrefine import GenrefineError
from genrefine.data import CodeStore, ImageSource
from genrefine.refiner.adapter import lora_config
from tiny_models import tiny_pipeline, tiny_text_pipeline, tiny_tokenizer

CASES = 120 * int(os.environ.get("GENREFINE_FUZZ", "1"))


def class_model(folder: Path) -> Callable[[], object]:
    tiny_pipeline().save_pretrained(folder)
    return lambda: genrefine.load(folder).sampler.settings()


def text_model(folder: Path) -> Callable[[], object]:
    tiny_text_pipeline().save_pretrained(folder)
    return lambda: genrefine.load(folder).sampler.settings()


def adapter(folder: Path) -> Callable[[], object]:
    pipe = tiny_pipeline()
    pipe.refiner.add_adapter(lora_config(pipe.refiner, rank=2))
    pipe.refiner.save_lora_adapter(folder)
    return lambda: tiny_pipeline().load_lora_weights(folder)


def code_store(folder: Path) -> Callable[[], object]:
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    CodeStore.create(folder / "store", tiny_tokenizer(), ImageSource(folder, size=16))
    (folder / "a.png").unlink()

    def read() -> None:
        index = folder / "store/index.json"
        try:  # a forger makes the digest, too
            content = json.loads(index.read_bytes())
            body = json.dumps(content["index"], sort_keys=True).encode()
            index.write_text(json.dumps({**content, "sha256": hashlib.sha256(body).hexdigest()}))
        except (ValueError, TypeError, KeyError):
            pass
        store = CodeStore.open(folder / "store")
        assert [store[index][0].shape for index in range(len(store))]
        assert store.names
        assert store.data is None or store.data.items

    return read


def table(folder: Path) -> Callable[[], object]:
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "label": "x", "text": ["one", "two"]}')
    return lambda: ImageSource(folder, caption_column="text")[0]


def csv_table(folder: Path) -> Callable[[], object]:
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "metadata.csv").write_text('file_name,label,text\na.png,x,"one, two"\n')
    return lambda: ImageSource(folder, caption_column="text")[0]


def _open(read: Callable[[], object], case: str, path: Path) -> None:
    """Open a folder, turning what is no clear refusal into a failure that says how to have it again."""
    try:
        read()
    except GenrefineError as error:
        if "\n" in str(error):
            raise AssertionError(f"{case}: not one line: {error}") from error
        raise
    except Exception as error:
        found = path.read_bytes()[:400]
        raise AssertionError(f"{case}: {type(error).__name__}: {error}; {found!r}") from error


@pytest.mark.parametrize("make", [class_model, text_model, adapter, code_store, table, csv_table])
def test_a_malformed_file_is_one_line_or_changes_nothing_that_matters(make, tmp_path: Path) -> None:
    read = make(tmp_path / "good")
    read()
    good, chance = restored(tmp_path / "good"), random.Random(make.__name__)
    kinds = (".json", ".jsonl", ".csv", ".png", ".safetensors")
    files = sorted(path for path in good if path.suffix in kinds)
    caught = 0
    for case in range(CASES):
        path = files[case % len(files)]
        path.write_bytes(altered(good[path], chance))
        with warnings.catch_warnings(), suppress(GenrefineError):
            warnings.simplefilter("ignore")
            caught += 1
            _open(read, f"case {case} of {path.name}", path)
            caught -= 1
        for altered_path, content in good.items():
            altered_path.write_bytes(content)
    assert caught > CASES / 4
