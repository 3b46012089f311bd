"""Samples in a folder: the same set however it is cut, continued, or shared by processes."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from genrefine.cli import main
from genrefine.cli.answers import is_first_process
from genrefine.errors import GenrefineError
from genrefine.evaluation.sample_folder import claim_of, draw_batches, missing_ranges, read_samples
from tiny_models import tiny_pipeline
from two_processes import in_two_processes

CLAIM = {"weights": "w", "labels": [0] * 10}


class Maker:
    """Make the numbers themselves, and remember what was asked for."""

    def __init__(self, stop_after=99):
        self.asked, self.stop_after = [], stop_after

    def __call__(self, start, end):
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((start, end))
        return {"frames": torch.arange(start, end)[:, None], "num_steps": torch.full((end - start,), 4)}


def draw(folder, make, count=10, size=4):
    return draw_batches(count, size, make, folder, CLAIM, progress=False)


@pytest.mark.parametrize(("first", "then"), [(4, 4), (3, 4), (4, 3), (1, 10), (9, 1)])
def test_an_interrupted_run_goes_on_with_any_batch_size(tmp_path, first, then):
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, Maker(stop_after=1), size=first)
    rest, again = Maker(), Maker()
    assert draw(tmp_path, rest, size=then)["frames"].flatten().tolist() == list(range(10))
    assert rest.asked[0][0] == first
    assert all(end - start <= then for start, end in rest.asked)
    assert sum(end - start for start, end in rest.asked) == 10 - first
    assert draw(tmp_path, again, size=7)["frames"].flatten().tolist() == list(range(10))
    assert again.asked == []


def test_only_what_is_missing_is_drawn_again(tmp_path):
    draw(tmp_path, Maker(), size=3)
    (tmp_path / "samples-000003.safetensors").unlink()
    assert missing_ranges(tmp_path, 10, 2) == [(3, 5), (5, 6)]
    with pytest.raises(GenrefineError, match=r"samples 0 to 9; number 3 is missing"):
        read_samples(tmp_path)
    rest = Maker()
    assert draw(tmp_path, rest, size=2)["frames"].flatten().tolist() == list(range(10))
    assert rest.asked == [(3, 5), (5, 6)]


def test_a_damaged_file_is_named(tmp_path):
    draw(tmp_path, Maker(), size=5)
    file = tmp_path / "samples-000005.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(GenrefineError, match=r"samples-000005.safetensors' is damaged .*; delete it"):
        draw(tmp_path, Maker())
    file.unlink()
    (tmp_path / "samples-five.safetensors").write_bytes(b"")
    with pytest.raises(GenrefineError, match="is no file of samples"):
        draw(tmp_path, Maker())


def test_another_run_and_an_empty_folder_are_refused(tmp_path):
    draw(tmp_path / "one", Maker())
    with pytest.raises(GenrefineError, match=r"another run .different weights."):
        draw_batches(10, 4, Maker(), tmp_path / "one", {**CLAIM, "weights": "v"}, progress=False)
    assert claim_of(tmp_path / "one") == CLAIM
    with pytest.raises(GenrefineError, match="holds no samples"):
        claim_of(tmp_path)
    with pytest.raises(GenrefineError, match="number 0 is missing"):
        read_samples(tmp_path)


def test_several_processes_need_a_folder(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(GenrefineError, match=r"2 processes share their samples through a folder"):
        draw(None, Maker())


def test_a_rank_without_other_processes_means_nothing(monkeypatch, tmp_path):
    """Some clusters set RANK for every job: one process alone draws everything, and speaks."""
    monkeypatch.setenv("RANK", "3")
    for world in ("", "1"):
        monkeypatch.setenv("WORLD_SIZE", world)
        make = Maker()
        assert draw(tmp_path / f"w{world}", make)["frames"].flatten().tolist() == list(range(10))
        assert is_first_process()


def test_two_processes_give_the_samples_and_numbers_of_one(tmp_path, capfd):
    """Through the command line: files of both, one report, the same JSON; and the second run draws nothing."""
    tiny_pipeline().save_pretrained(tmp_path / "m")
    data = write_pictures(tmp_path / "set")
    words = ["evaluate", "samples", "--model", tmp_path / "m", "--data", data, "--num-samples", 11]
    words += ["--batch-size", 2, "--num-inference-steps", 2]
    answer = in_two_processes("-m", "genrefine", *words, "--samples", tmp_path / "two", "--json", tmp_path / "two.json")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("11 samples") == 1
    assert main([str(word) for word in [*words, "--samples", tmp_path / "one", "--json", tmp_path / "one.json"]]) == 0
    # Thread counts differ, which shows in the ninth digit of features.
    assert numbers(tmp_path / "two.json") == pytest.approx(numbers(tmp_path / "one.json"), rel=1e-5, abs=1e-6)
    one, two = read_samples(tmp_path / "one"), read_samples(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("samples-*")}
    assert len(times) == 6
    assert main([str(word) for word in [*words, "--samples", tmp_path / "two"]]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    capfd.readouterr()


def numbers(path: Path) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", path.read_text())]


def write_pictures(folder: Path) -> Path:
    for index in range(8):
        place = folder / ("animals" if index % 2 else "food") / ("noto" if index % 2 else "fluent")
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 10 + 20 * index).convert("RGB").save(place / f"{index}.png")
    return folder
