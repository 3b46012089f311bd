"""Every option has an effect, or it is refused: one row per option, and no option without a row.

A row is a pair of command lines that differ in that option. Both run in the same place, and what can be seen of them
(code, output, files, number of network calls) must differ.
"""

import argparse
import io
import os
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from captioned_sets import write_captioned
from option_rows import ROWS
from PIL import Image, ImageOps
from safetensors.torch import load_file

from genrefine.cli import VERBS, OneLineParser, main
from genrefine.evaluation.statistics import Statistics, write_statistics
from genrefine.refiner.adapter import lora_config
from networks_of_scores import TinyI3D, TinyVgg, save_script
from tiny_models import CLASS_NAMES, tiny_pipeline, tiny_text_encoder, tiny_text_pipeline

GOLDENS = Path(__file__).parents[1] / "goldens"
# Speeds and durations: in our own words, in progress bars, and in JSON.
VARYING = re.compile(r"in \d+\.\d+ s,|[^\r\n]*(?:it/s|step/s|s/step|picture/s|examples/s)[^\r\n]*[\r\n]*")
VARYING_BYTES = re.compile(rb'"seconds": [\d.e-]+')


def declared(verb: str) -> set[str]:
    """Return the longest name of every option that a verb or its subject declares."""
    words = verb.split()
    parser = OneLineParser()
    import_module(f"genrefine.cli.{words[0]}").add_options(parser)
    for word in words[1:]:
        (subjects,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        parser = subjects.choices[word]
    actions = [a for a in parser._actions if not isinstance(a, argparse._HelpAction | argparse._SubParsersAction)]
    return {max(action.option_strings, key=len) if action.option_strings else action.dest for action in actions}


@dataclass(frozen=True)
class Sight:
    """What can be seen of a run."""

    code: int
    out: str
    err: str
    files: dict[str, bytes]
    network_calls: int


@pytest.fixture(scope="module")
def place(tmp_path_factory, model, pictures):
    """Return a folder with everything the command lines name."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(model, folder / "m")
    other = tiny_pipeline(num_inference_steps=5)
    with torch.no_grad():
        for parameter in [*other.refiner.parameters(), *other.visual_tokenizer.parameters()]:
            parameter.mul_(1.5)
    other.save_pretrained(folder / "other")
    for name in ("set", "clear", "bad"):
        shutil.copytree(pictures, folder / name)
    for split in ("train", "test"):
        Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(folder / "clear" / split / "food" / "fluent" / "0.png")
        (folder / "bad" / split / "food" / "fluent" / "bad.png").write_text("no picture")
    shutil.copytree(pictures / "train", folder / "set2" / "test")
    shutil.copytree(pictures / "train", folder / "ours")
    shutil.copytree(pictures / "test", folder / "theirs")
    for index, name in enumerate(("a.png", "b.png")):
        shutil.copy(pictures / "train" / "food" / "fluent" / f"{index}.png", folder / name)
    write_table(folder / "table.parquet", pictures)
    write_films(folder)
    write_captioned(folder)
    for name, pipe in (
        ("t", tiny_text_pipeline(presets={"fast": {"guidance_scale": 7.0}})),
        ("t2", tiny_text_pipeline(guidance_scale=9.0)),
    ):
        pipe.save_pretrained(folder / name)
    for part in tiny_text_encoder():
        part.save_pretrained(folder / "encoder")
    for name, pipe in (("ad", tiny_pipeline()), ("tad", tiny_text_pipeline())):
        write_adapter(folder / name, pipe.refiner)
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 16))
    mask.save(folder / "mask.png")
    (folder / "names.txt").write_text("\n".join(CLASS_NAMES))
    (folder / "words.txt").write_text("dog\nheart\n")
    for name, words in (("asked", ("dog", "heart")), ("asked2", ("dog", "rocket"))):
        (folder / f"{name}.jsonl").write_text("".join(f'{{"tag": "one", "prompt": "{word}"}}\n' for word in words))
    for name, side in (("quarters", 2), ("thirds", 3)):
        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(side), torch.nn.Flatten()).eval()
        shapes = ({0: torch.export.Dim("batch", max=4096), 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
        program = torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes)
        torch.export.save(program, folder / f"{name}.pt2")
    gaussian = torch.eye(12, dtype=torch.float64)
    write_statistics(folder / "quarters.npz", Statistics(gaussian[0], gaussian))
    save_script(TinyI3D(), folder / "i3d.pt")
    save_script(TinyVgg(), folder / "vgg16.pt")
    weights = {name: weights_of(f"{name}.safetensors") for name in ("class_refiner_index", "tokenizer")}
    refiner = weights["class_refiner_index"]
    doubled = {key: 2 * tensor if "linear" in key else tensor for key, tensor in refiner.items()}
    arguments = argparse.Namespace(method="GRN_ind", hbq_round=2)
    torch.save({"model": doubled, "model_ema1": refiner, "args": arguments}, folder / "refiner.pth")
    torch.save({"vae": weights["tokenizer"]}, folder / "tokenizer.ckpt")
    return folder


def write_adapter(folder: Path, refiner: Any) -> None:
    """Write an adapter that changes much."""
    refiner.add_adapter(lora_config(refiner, rank=2))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for factor in refiner.adapter_weights().values():
            factor.normal_()
    refiner.save_lora_adapter(folder)


def weights_of(name: str) -> dict[str, torch.Tensor]:
    """Return the published-style weights in a golden file."""
    return {key[2:]: tensor for key, tensor in load_file(GOLDENS / name).items() if key.startswith("w.")}


def write_table(path: Path, pictures: Path) -> None:
    """Write pictures as a table with two columns of pictures and two of classes."""
    files = sorted((pictures / "train").rglob("*.png"))
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    classes = [file.parent.relative_to(pictures / "train").as_posix() for file in files]
    others = [{"bytes": inverted(file), "path": file.name} for file in files]
    columns = {"image": cells, "other": others, "class_name": classes}
    pyarrow.parquet.write_table(pyarrow.table({**columns, "style": [name.split("/")[1] for name in classes]}), path)


def write_films(folder: Path) -> None:
    """Write a moving picture of eight frames, ten a second, alone in a folder and in two columns of a table."""
    frames = [Image.linear_gradient("L").resize((16, 16)).rotate(40 * n).convert("RGB") for n in range(8)]
    cells = []
    for film in (frames, frames[::-1]):
        content = io.BytesIO()
        film[0].save(content, "WEBP", save_all=True, append_images=film[1:], duration=100, lossless=True)
        cells.append({"bytes": content.getvalue(), "path": "turning.webp"})
    (folder / "films").mkdir()
    (folder / "films" / "turning.webp").write_bytes(cells[0]["bytes"])
    pyarrow.parquet.write_table(pyarrow.table({"video": cells[:1], "other": cells[1:]}), folder / "films.parquet")


def inverted(file: Path) -> bytes:
    """Return the negative of a picture as PNG."""
    content = io.BytesIO()
    with Image.open(file) as picture:
        ImageOps.invert(picture).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def see(place, tmp_path_factory):
    """Return a function that runs a command line in a fresh copy of the place; equal lines run once."""
    seen: dict[str, Sight] = {}

    def look(line: str, capfd: pytest.CaptureFixture[str], again: bool = False) -> Sight:
        if line not in seen or again:
            folder = tmp_path_factory.mktemp("run") / "here"
            # Links are enough: whatever the program changes, it writes anew and renames into place.
            shutil.copytree(place, folder, copy_function=os.link)
            sight = watch(line, folder, capfd)
            shutil.rmtree(folder)
            if again:
                return sight
            seen[line] = sight
        return seen[line]

    return look


def watch(line: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> Sight:
    """Run a command line in a folder and note what it printed, wrote and computed."""
    before = contents(folder)
    num_calls = [0]

    def count(module: torch.nn.Module, arguments: object, output: object) -> None:
        num_calls[0] += 1

    capfd.readouterr()
    hook = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr("os.fsync", lambda handle: None)
            patch.setattr("datasets.config.HF_DATASETS_CACHE", folder.parent / "cache")
            code = main(line.split())
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        hook.remove()
    out, err = (VARYING.sub("", text) for text in capfd.readouterr())
    files = {name: content for name, content in contents(folder).items() if before.get(name) != content}
    return Sight(code, out, err, files, num_calls[0])


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file but logs, whose names and content carry the time."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    kept = [path for path in files if not {"logs", "checkpoints", "metrics.jsonl"} & set(path.parts)]
    return {path.relative_to(folder).as_posix(): VARYING_BYTES.sub(b"", path.read_bytes()) for path in kept}


@pytest.mark.parametrize("verb", ROWS)
def test_every_option_has_a_row(verb):
    assert declared(verb) == ROWS[verb].keys()


def test_every_verb_is_in_the_table():
    assert {verb.split()[0] for verb in ROWS} | {"studio"} == set(VERBS)  # that one serves: see `test_studio`


@pytest.mark.parametrize(("verb", "option"), [(verb, option) for verb, rows in ROWS.items() for option in rows])
def test_every_option_has_an_effect_or_is_refused(see, capfd, verb, option):
    without, with_option = ROWS[verb][option]
    assert without != with_option
    assert see(without, capfd) != see(with_option, capfd)


@pytest.mark.parametrize("line", sorted({rows[0] for options in ROWS.values() for rows in options.values()}))
def test_what_is_seen_of_a_command_line_does_not_vary(see, capfd, line):
    # Without this, a clock in some file would pass for the effect of an option.
    assert see(line, capfd) == see(line, capfd, again=True)
