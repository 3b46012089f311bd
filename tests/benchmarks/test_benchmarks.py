"""Every benchmark runs with tiny settings and reports what it promises."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from genrefine.data import ImageSource
from genrefine.evaluation.prompts import Columns, evaluate_prompts
from genrefine.evaluation.samples import labels_like
from tiny_models import tiny_pipeline, tiny_text_pipeline

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a benchmark's `main` and return the report it wrote."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))

    def main(name: str, *arguments: object) -> dict:
        path = tmp_path / "report.json"
        given = [*map(str, arguments), "--repetitions", "1", "--json", str(path)]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *given])
        importlib.import_module(name).main(given)
        return json.loads(path.read_text())

    return main


def _values(report: dict) -> dict[str, float]:
    assert all(result["value"] > 0 for result in report["results"])
    return {result["name"]: result["value"] for result in report["results"]}


def test_hbq_throughput_reports_both_layouts_and_how_it_was_run(run, capsys):
    report = run("hbq_throughput", "--values", 2**16, "--rounds", 3, "--threads", 1, "--cpu-time")
    values = _values(report)
    for layout in ("index", "bit"):
        ratio = values[f"{layout}, closed form"] / values[f"{layout}, sequential"]
        assert values[f"{layout}, ratio"] == pytest.approx(ratio)
    assert report["run"]["command"].startswith("python benchmarks/hbq_throughput.py --values 65536")
    assert report["run"]["threads"] == 1
    assert report["run"]["clock"] == "CPU time"
    assert report["run"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert "index, ratio" in printed
    assert report["run"]["machine"] in printed


def test_hbq_closed_form_is_faster_than_the_rounds_even_on_a_small_tensor(run):
    values = _values(run("hbq_throughput", "--values", 2**20, "--rounds", 8))
    assert values["index, ratio"] > 2
    assert values["bit, ratio"] > 1


def test_cpu_time_with_several_threads_is_refused(run):
    with pytest.raises(SystemExit, match="--threads 1"):
        run("hbq_throughput", "--values", 4096, "--cpu-time", "--threads", 2)


def test_matmul_peak_is_the_best_size(run):
    values = _values(run("matmul_peak", "--sides", 64, 128))
    for dtype in ("bf16", "fp32"):
        assert values[f"{dtype}, peak"] == max(values[f"{dtype}, 64"], values[f"{dtype}, 128"])


def test_flop_utilization_counts_the_operations_of_the_network(run):
    report = run(
        "flop_utilization", "--width", 48, "--depth", 1, "--grid", 2, "--sampling-batch", 4, "--training-batch", 8,
        "--steps", 2, "--peak-sides", 64,
    )  # fmt: skip
    values = _values(report)
    operations = {r["name"]: r["operations"] for r in report["results"] if "operations" in r}
    for name in ("sampling", "training"):
        assert values[f"{name}, utilization"] == pytest.approx(100 * values[name] / values["peak"])
    # One row by hand: 4 picture and 32 class tokens of width 48, MLP 128 wide, 16 channels of 16 classes.
    tokens, width = 36, 48
    forward = 2 * 4 * (256 * 128 + 128 * width)  # embedding of the codes
    forward += 2 * (256 * width + width * width)  # signal
    forward += 2 * 6 * width * width + 2 * tokens * 4 * width * width + 4 * tokens * tokens * width  # attention
    forward += 2 * tokens * 3 * width * 128  # feed-forward
    forward += 2 * 2 * width * width + 2 * 4 * width * 256  # head
    assert operations["sampling"] == 2 * 8 * forward  # two steps, guidance makes four pictures eight rows
    # Backward twice the forward, but for the one-hot codes and the sinusoid, whose gradients nobody needs.
    assert operations["training"] == 8 * (3 * forward - 2 * 4 * 256 * 128 - 2 * 256 * width)


def test_sampling_speed_counts_the_same_evaluations_as_the_network(run, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    report = run("sampling_speed", "--model", tmp_path / "model", "--batches", 1, 3, "--steps", 6, "--pictures", 4)
    values = {result["name"]: result for result in report["results"]}
    assert set(values) == {f"{way}, batch {n}" for way in ("fixed", "adaptive", "ratio") for n in (1, 3)}
    assert values["fixed, batch 1"]["steps"] == values["fixed, batch 3"]["steps"] == 6
    assert values["adaptive, batch 1"]["evaluations"] == values["adaptive, batch 3"]["evaluations"]
    fewer = values["fixed, batch 3"]["evaluations"] / values["adaptive, batch 3"]["evaluations"]
    assert values["ratio, batch 3"]["fewer_evaluations"] == pytest.approx(fewer)


def test_sampling_speed_of_a_model_without_calibration_measures_fixed_steps_only(run, tmp_path, capsys):
    tiny_pipeline(entropy_steps=None).save_pretrained(tmp_path / "model")
    report = run("sampling_speed", "--model", tmp_path / "model", "--batches", 2, "--steps", 2, "--pictures", 2)
    assert [result["name"] for result in report["results"]] == ["fixed, batch 2"]
    assert "never calibrated" in capsys.readouterr().out


def test_text_speed_measures_pictures_and_clips_with_their_memory(run, tmp_path):
    tiny_text_pipeline().save_pretrained(tmp_path / "model")
    words = ["--model", tmp_path / "model", "--batches", 2, "--steps", 6, "--pictures", 4, "--frames", 5]
    report = run("text_speed", *words, "--threads", 1)
    _values(report)
    results = {result["name"]: result for result in report["results"]}
    # A quarter as many clips as pictures: a single one, so no batch of two.
    assert set(results) == {
        "picture, fixed, batch 2",
        "picture, adaptive, batch 2",
        "clip, fixed, batch 1",
        "clip, adaptive, batch 1",
    }
    assert results["picture, fixed, batch 2"]["steps"] == results["clip, fixed, batch 1"]["steps"] == 6
    expected = tiny_text_pipeline()(list(text_speed_prompts()), seed=[0, 1, 2, 3], adaptive=True).num_steps
    assert results["picture, adaptive, batch 2"]["steps"] == sum(expected) / 4
    assert all(result["peak_megabytes"] > 100 for result in results.values())


def text_speed_prompts() -> tuple[str, ...]:
    """Return the prompts of the first four pictures."""
    return importlib.import_module("text_speed").PROMPTS[:4]


def test_a_sweep_finds_what_the_evaluation_finds_and_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    sweep = importlib.import_module("sweep_sampling")
    write_captioned_pictures(tmp_path / "data")
    tiny_text_pipeline().save_pretrained(tmp_path / "model")
    words = ["--model", tmp_path / "model", "--data", tmp_path / "data", "--split", "pair", "--gallery-splits", "train"]
    words += ["--keep", "--num-samples", 8, "--steps", 2, "--temperature", 1, "--dtype", "float32"]
    sweep.main([*map(str, words), "--out", str(tmp_path / "out"), "--guidance", "1"])
    sweep.main([*map(str, words), "--out", str(tmp_path / "out"), "--guidance", "1", "3"])
    points = json.loads((tmp_path / "out" / "sweep_sampling.json").read_text())["points"]
    assert [one["sampling"]["guidance_scale"] for one in points] == [1.0, 3.0]
    assert capsys.readouterr().out.count('"sampling"') == 2  # the point of the first run is not drawn again
    with Image.open(tmp_path / "out" / "sweep_sampling.png") as plot:
        assert plot.width > plot.height
    source = {
        split: ImageSource(tmp_path / "data", split=split, caption_column="captions") for split in ("pair", "train")
    }
    pipe = tiny_text_pipeline()
    found = evaluate_prompts(
        pipe, source["pair"], [source["train"]], 8, Columns(group=""), progress=False, num_inference_steps=2,
        guidance_scale=3.0, temperature=1.0,
    )  # fmt: skip
    assert points[1]["kid"] == pytest.approx(found.comparisons[0].kernel.mean, rel=1e-3)
    assert points[1]["concept"] == found.accuracies[0].concept.value
    with pytest.raises(SystemExit, match="another model"):
        sweep.main([*map(str, words), "--out", str(tmp_path / "out"), "--seed", "1"])


def write_captioned_pictures(folder: Path) -> None:
    """Write eight captioned pictures in each of two splits."""
    generator = torch.Generator().manual_seed(0)
    for split in ("pair", "train"):
        (folder / split).mkdir(parents=True)
        lines = []
        for number in range(8):
            levels = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(levels.numpy()).save(folder / split / f"{number}.png")
            concept, style = ("heart", "dog", "rocket", "pizza")[number // 2], ("red", "blue")[number % 2]
            row = {"file_name": f"{number}.png", "captions": [f"{style} {concept}"], "concept": concept, "style": style}
            lines.append(json.dumps(row))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))


def test_training_speed_measures_both_sources_with_the_training_loop(run, tmp_path):
    tiny_pipeline().visual_tokenizer.save_pretrained(tmp_path / "tokenizer")
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(2):
            color = (90 * number, 40, 200)
            Image.new("RGB", (16, 16), color).save(tmp_path / "pictures" / name / f"{number}.png")
    settings = {
        "data.source": tmp_path / "pictures",
        "data.split": "",
        "data.size": 16,
        "data.only": "",
        "data.label_column": "",
        "refiner.width": 16,
        "refiner.depth": 1,
        "refiner.num_heads": 2,
        "refiner.bottleneck": 8,
        "training.batch_size": 2,
        "training.compile": False,
    }
    changes = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    report = run("training_speed", "--tokenizer", tmp_path / "tokenizer", "--updates", 2, "--warmups", 1, *changes)
    values = _values(report)
    assert set(values) == {"from pixels", "from codes", "ratio"}
    assert values["ratio"] == pytest.approx(values["from codes"] / values["from pixels"])


def test_refiner_speed_compares_the_library_with_a_network_that_says_the_same(run):
    sizes = ("--width", 48, "--depth", 2, "--grid", 2, "--batch", 2)
    report = run("refiner_speed", *sizes, "--dtypes", "fp32", "bf16", "--threads", 1)
    values = _values(report)
    assert values["largest difference of logits, fp32"] < 1e-4
    for dtype in ("fp32", "bf16"):
        for place in ("guided", "published"):
            name = f"{dtype}, 1 thread, {place}"
            ratio = values[f"{name}, plain"] / values[f"{name}, library"]
            assert values[f"{name}, ratio"] == pytest.approx(ratio)
    # 27 of 50 steps lie inside the interval: signals 0.46 to 0.98; 0.44 itself is outside.
    assert report["run"]["steps_inside"] == 27


def test_refiner_speed_refuses_a_reference_that_says_something_else(run, monkeypatch):
    import refiner_speed

    monkeypatch.setattr(refiner_speed, "rotated", lambda x, angles: x)
    with pytest.raises(AssertionError, match="same logits"):
        run("refiner_speed", "--width", 48, "--depth", 1, "--grid", 2, "--batch", 2, "--threads", 1)


def test_expected_latents_are_judged_on_the_same_trajectories_and_drawn_once(run, tmp_path):
    """A tiny model: the numbers are those of its pictures, and kept pictures are not drawn again."""
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    for index in range(10):
        place = tmp_path / "data" / "concept" / ("food/fluent" if index % 2 else "animals/noto")
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 20 * index).convert("RGB").save(place / f"{index}.png")
    words = ["--model", tmp_path / "tiny", "--data", tmp_path / "data", "--num-samples", 10, "--steps", 2, 3]
    words += ["--keep", tmp_path / "kept", "--plot", tmp_path / "plot.png", "--batch-size", 4, "--only"]
    report = run("expected_latents", *words)
    (kept,) = (tmp_path / "kept").glob("*-2-*.safetensors")
    pictures = load_file(kept)
    pipe = tiny_pipeline()
    source = ImageSource(tmp_path / "data", split="concept", class_names=pipe.class_names)
    labels = labels_like(source.labels, len(pipe.class_names), 10)
    for row in range(10):
        what, seed = labels[row], 100_000 + row
        for end in ("drawn", "expected"):
            made = pipe(what, seed=seed, num_inference_steps=2, final_latents=end).images[0]
            assert made.tobytes() == pictures[end][row].numpy().tobytes()
    paired = [one for one in report["results"] if one["name"] == "2 steps expected against 2 drawn"]
    assert [one["value"] for one in paired] == [pytest.approx(paired[0]["expected"] - paired[0]["drawn"])]
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 300
    before = kept.stat().st_mtime_ns
    again = run("expected_latents", *words)
    assert again["results"] == report["results"]
    assert kept.stat().st_mtime_ns == before
