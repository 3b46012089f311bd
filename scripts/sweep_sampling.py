"""Find sampling defaults: concept accuracy and kernel distance over guidance and temperature, as one plot and JSON.

    python scripts/sweep_sampling.py --model emoji --data datasets/emoji --split pair --out docs/images

A text model is judged as by `genrefine evaluate prompts`, a class model as by `genrefine evaluate samples`, always with
the same seeds and captions or classes. `--out` gets `sweep_sampling.png` and `sweep_sampling.json`; a point that is in
the JSON already is not drawn again, so that an interrupted or a wider sweep goes on.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from genrefine import ClassPipeline, TextPipeline
from genrefine.data import ImageSource
from genrefine.evaluation.comparison import compare_all
from genrefine.evaluation.features import EfficientNetFeatures, collect_features
from genrefine.evaluation.pictures import pixel_batches
from genrefine.evaluation.prompts import Columns, evaluate_prompts, gallery_of
from genrefine.evaluation.samples import draw_samples, labels_like
from genrefine.files import write_atomically
from genrefine.media.pixels import from_uint8
from genrefine.model_folder.find import find_model

COLORS = ("#1b6e8c", "#c8553d", "#5c7f3b", "#7a4f9a", "#b5892e", "#444444")

Judge = Callable[[dict[str, Any]], dict[str, Any]]


def judge_of(chosen: argparse.Namespace) -> tuple[Judge, dict[str, Any]]:
    """Return a function from sampling arguments to numbers, and what all points have in common."""
    folder = find_model(chosen.model)
    is_text = "TextPipeline" in (folder / "model_index.json").read_text()
    kind = TextPipeline if is_text else ClassPipeline
    pipe = kind.from_pretrained(folder, dtype=getattr(torch, chosen.dtype))
    pipe.set_progress_bar_config(disable=True)
    keep = {name: value for name, _, value in (pair.partition("=") for pair in chosen.keep)}
    extractor = EfficientNetFeatures()

    def source(split: str | None, **more: Any) -> ImageSource:
        return ImageSource(chosen.data, size=pipe.picture_size, split=split, keep=keep, **more)

    common = {"model": folder.name, "data": chosen.data, "split": chosen.split, "num_samples": chosen.num_samples}
    common |= {"seed": chosen.seed, "extractor": extractor.description, "dtype": chosen.dtype}
    if not is_text:
        held_out = source(chosen.split, class_names=pipe.class_names)
        real = collect_features(extractor, pixel_batches(held_out, 32, True, "real features"))
        labels = labels_like(held_out.labels, len(pipe.class_names), chosen.num_samples)

        def judge_classes(sampling: dict[str, Any]) -> dict[str, Any]:
            frames = draw_samples(pipe, labels, chosen.batch_size, **sampling).frames
            clips = [from_uint8(part.permute(0, 2, 3, 1)[:, None]) for part in frames.split(32)]
            generator = torch.Generator().manual_seed(chosen.seed)
            first, *_ = compare_all(collect_features(extractor, clips), real, None, generator)
            return {"kid": first.kernel.mean, "kid_std": first.kernel.std}

        return judge_classes, common
    asked = source(chosen.split, caption_column=chosen.caption_column)
    others = [source(split) for split in chosen.gallery_splits]
    columns = Columns(chosen.concept_column, chosen.style_column, "")
    gallery = gallery_of(extractor, asked, others, columns)

    def judge_prompts(sampling: dict[str, Any]) -> dict[str, Any]:
        found = evaluate_prompts(
            pipe, asked, (), chosen.num_samples, columns, extractor, chosen.batch_size, None, chosen.seed, True,
            gallery, **sampling,
        )  # fmt: skip
        samples, ceiling, chance = found.accuracies
        kernel = found.comparisons[0].kernel
        return {
            "concept": samples.concept.value,
            "concept_interval": [samples.concept.low, samples.concept.high],
            "concept_of_five": samples.concept_of_five.value,
            "style": samples.style.value,
            "concept_ceiling": ceiling.concept.value,
            "concept_chance": chance.concept.value,
            "kid": kernel.mean,
            "kid_std": kernel.std,
        }

    return judge_prompts, common | {"gallery_splits": chosen.gallery_splits}


def draw(points: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Plot the points: a panel per measure, a line per temperature and kernel over guidance."""
    panels = [("kid", "kernel distance (lower is better)")]
    if all("concept" in one for one in points):
        panels.insert(0, ("concept", "concept accuracy (higher is better)"))
    figure = Figure(figsize=(5.2 * len(panels), 4.0), dpi=150, layout="constrained")
    lines = sorted({(one["sampling"]["kernel"], one["sampling"]["temperature"]) for one in points})
    for place, (name, heading) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for number, (kernel, temperature) in enumerate(lines):
            wanted = {"kernel": kernel, "temperature": temperature}
            own = [one for one in points if wanted.items() <= one["sampling"].items()]
            own.sort(key=lambda one: one["sampling"]["guidance_scale"])
            x = [one["sampling"]["guidance_scale"] for one in own]
            color, dashes = COLORS[number % len(COLORS)], "-" if kernel == "refresh" else "--"
            label = f"{kernel}, T = {temperature:g}"
            axes.plot(x, [one[name] for one in own], color=color, marker="o", linestyle=dashes, label=label)
        if name == "concept":
            axes.axhline(points[0]["concept_ceiling"], color="#999999", linestyle=":", label="real, other style")
        axes.set_xlabel("guidance scale")
        axes.set_title(heading, fontsize=11)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and plot everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="emoji", help="pipeline folder or name of a shipped model")
    parser.add_argument("--data", default="datasets/emoji", help="captioned pictures; for a class model, classes")
    parser.add_argument("--split", default="pair", help="split of the captions or classes and of the kernel distance")
    parser.add_argument("--gallery-splits", nargs="*", default=["train", "concept"], help="further real pictures")
    parser.add_argument("--keep", nargs="*", default=["skin_tone="], metavar="COLUMN=VALUE", help="pictures to take")
    parser.add_argument("--caption-column", default="captions")
    parser.add_argument("--concept-column", default="concept")
    parser.add_argument("--style-column", default="style")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.5, 6.0])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.5, 0.7, 1.0])
    parser.add_argument("--kernels", nargs="+", default=["refresh"], choices=["refresh", "exact"])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--num-samples", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="threads of torch; default as torch chooses")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    judge, common = judge_of(chosen)
    file = chosen.out / "sweep_sampling.json"
    stored = json.loads(file.read_text()) if file.is_file() else {"common": common, "points": []}
    if stored["common"] != common:
        raise SystemExit(f"'{file}' is a sweep of other data or of another model; give another --out or delete it")
    points = stored["points"]
    for kernel in chosen.kernels:
        for temperature in chosen.temperature:
            for guidance in chosen.guidance:
                sampling = {"num_inference_steps": chosen.steps, "guidance_scale": guidance}
                sampling |= {"temperature": temperature, "kernel": kernel}
                if any(one["sampling"] == sampling for one in points):
                    continue
                points.append({"sampling": sampling, **judge(sampling)})
                write_atomically(file, (json.dumps(stored, indent=2) + "\n").encode())
                print(json.dumps(points[-1]), flush=True)
    title = f"{common['model']}, split '{chosen.split}', {chosen.num_samples} samples, {chosen.steps} steps"
    own = [one for one in points if one["sampling"]["num_inference_steps"] == chosen.steps]
    draw(own, title, file.with_suffix(".png"))
    print(file.with_suffix(".png"))


if __name__ == "__main__":
    main()
