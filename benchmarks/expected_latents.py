"""Does decoding what is expected of the last prediction beat decoding what is drawn of it? (`final_latents`)

    python benchmarks/expected_latents.py --model emoji-class --steps 8 12 24 50 --json expected.json

Every sample is refined once and shown both ways, so the pairs share everything but their end; each number of steps
shown as expected is compared with the most steps shown as drawn, too. Judged by EfficientNet-Lite0 and, with
`--extractor FILE.pt2 PIXELS`, by a second network; and by how sharp pictures are (mean absolute difference of
neighboring pixels, of 255; real pictures beside them), as a distance may favor what is smooth. Seeds begin at 100,000:
no choice saw them.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save
from torch import Tensor

import genrefine
import measuring
from genrefine import ClassPipeline
from genrefine.data import ImageSource
from genrefine.evaluation.features import EfficientNetFeatures, FeatureExtractor, ProgramFeatures, collect_features
from genrefine.evaluation.frechet import frechet_distance
from genrefine.evaluation.manifold import manifold
from genrefine.evaluation.paired import Interval, paired_kernel_distance
from genrefine.evaluation.pictures import pixel_batches
from genrefine.evaluation.samples import labels_like
from genrefine.files import write_atomically
from genrefine.media.pixels import from_uint8, to_uint8

FIRST_SEED = 100_000
ENDS = ("drawn", "expected")


def sharpness(pixels: Tensor) -> Tensor:
    """Return the mean absolute difference of neighboring pixels of each picture, of 255."""
    across = (pixels[..., 1:] - pixels[..., :-1]).abs().flatten(1).mean(1)
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).abs().flatten(1).mean(1)
    return (across + down) / 2 * 127.5


def draw(pipe: Any, what: list[Any], steps: int, options: argparse.Namespace) -> dict[str, Tensor]:
    """Return the pictures of both ends as bytes, colors last; drawn before if they are kept."""
    file = (
        options.keep / f"{Path(options.model).name}-{steps}-{len(what)}-{options.dtype}.safetensors"
        if options.keep
        else None
    )
    if file is not None and file.is_file():
        return load_file(file)
    shown: dict[str, list[Tensor]] = {end: [] for end in ENDS}
    for start in range(0, len(what), options.batch_size):
        part = what[start : start + options.batch_size]
        seeds = list(range(FIRST_SEED + start, FIRST_SEED + start + len(part)))
        *_, last = pipe.refine(part, seed=seeds, num_inference_steps=steps, final_latents="expected")
        shown["expected"].append(to_uint8(pipe.show(last)))
        shown["drawn"].append(to_uint8(pipe.decode(last.prediction)))
    pictures = {end: torch.cat(parts) for end, parts in shown.items()}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, save(pictures))
    return pictures


def plot(distances: dict[tuple[int, str], Interval], options: argparse.Namespace) -> None:
    """Draw the kernel distance of both ends over the number of steps, with its intervals."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for end, color, marker in (("drawn", "#c8553d", "o"), ("expected", "#1b6e8c", "s")):
        steps = sorted(steps for steps, which in distances if which == end)
        found = [distances[one, end] for one in steps]
        spread = [[one.value - one.low for one in found], [one.high - one.value for one in found]]
        values = [one.value for one in found]
        axes.errorbar(steps, values, spread, color=color, marker=marker, capsize=3, label=end)
    axes.set(xscale="log", xlabel="steps, two evaluations each", ylabel="kernel distance to held-out pictures")
    axes.set_xticks(options.steps, [str(one) for one in options.steps], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_title(f"{Path(options.model).name}, {options.num_samples:,} fresh seeds", fontsize=10)
    axes.legend(title="what is decoded", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.plot, dpi=120)


def main(words: list[str] | None = None) -> None:
    """Draw, judge and report."""
    parser = measuring.parser(__doc__, repetitions=1)
    parser.add_argument("--model", default="emoji-class")
    parser.add_argument("--data", default="datasets/emoji")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 12, 24, 50])
    parser.add_argument("--num-samples", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--extractor", nargs=2, metavar=("FILE", "PIXELS"), help="a second network: .pt2, input size")
    parser.add_argument("--only", nargs="*", default=["skin_tone="], metavar="COLUMN=VALUE", help="held-out rows")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw distance over steps, .png")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep pictures here, and do not draw them again")
    options = parser.parse_args(words)
    report = measuring.Report("expected_latents", options)

    pipe = genrefine.load(options.model, dtype=getattr(torch, options.dtype))
    pipe.set_progress_bar_config(disable=True)
    is_class = isinstance(pipe, ClassPipeline)
    names = {"class_names": pipe.class_names} if is_class else {"caption_column": "captions"}
    split = "concept" if is_class else "pair"
    only = {column: value for column, _, value in (pair.partition("=") for pair in options.only)}
    held_out = ImageSource(options.data, size=pipe.picture_size, split=split, keep=only, **names)
    if is_class:
        what: list[Any] = labels_like(held_out.labels, len(pipe.class_names), options.num_samples)
    else:
        what = [held_out.captions[i % len(held_out)][0] for i in range(options.num_samples)]
    networks: dict[str, FeatureExtractor] = {"Lite0": EfficientNetFeatures()}
    if options.extractor:
        networks[Path(options.extractor[0]).stem] = ProgramFeatures(options.extractor[0], int(options.extractor[1]))
    real = torch.cat(list(pixel_batches(held_out, 32, False, "")))
    of_real = {name: collect_features(network, real.split(32)) for name, network in networks.items()}
    report.add("held-out pictures", len(held_out), split, sharpness=float(sharpness(real).mean()))

    found: dict[tuple[int, str, str], Tensor] = {}
    for steps in options.steps:
        for end, pictures in draw(pipe, what, steps, options).items():
            pixels = from_uint8(pictures)
            report.add(f"{steps} steps, {end}", float(sharpness(pixels).mean()), "sharpness")
            for name, network in networks.items():
                features = found[steps, end, name] = collect_features(network, pixels.split(32))
                report.add(f"{steps} steps, {end}", frechet_distance(features, of_real[name]), f"Frechet, {name}")
                four = asdict(manifold(features, of_real[name]))
                report.add(f"{steps} steps, {end}", four.pop("precision"), f"precision, {name}", **four)
    most = max(options.steps)
    distances: dict[tuple[int, str], Interval] = {}
    for steps in options.steps:
        for name in networks:
            for first in dict.fromkeys([(steps, "drawn"), (most, "drawn")]):
                pair = found[(*first, name)], found[steps, "expected", name]
                one = paired_kernel_distance(*pair, of_real[name], torch.Generator().manual_seed(0))
                if name == "Lite0":
                    distances[first] = one.first
                    distances[steps, "expected"] = one.second
                title = f"{steps} steps expected against {first[0]} drawn"
                low, high = one.difference.low, one.difference.high
                details = {"low": low, "high": high, "drawn": one.first.value, "expected": one.second.value}
                report.add(title, one.difference.value, f"KID, {name}", **details)
    if options.plot is not None:
        plot(distances, options)
    report.show(__doc__)


if __name__ == "__main__":
    main()
