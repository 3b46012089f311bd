"""Compare code rates by what a refiner makes of them: one small class refiner for each tokenizer and number of rounds.

    python scripts/sweep_rates.py d16=runs/tokenizer/tokenizer d8=runs/d8/tokenizer --rounds 2 3 4 --out runs/rates

More bits reconstruct better and are harder to predict, so the best rate for generation is not that of the best PSNR.
HBQ's rounds are nested: a tokenizer trained for several rounds is one set of weights with other `rounds`. For every
point the base pictures of the training split are encoded, a refiner is trained on them by the preset `emoji-class` made
small, and samples in the class proportions of held-out pictures are drawn; KID compares them with these pictures.

`--out` keeps `points.jsonl`, one line a point, and the runs. A point that is there already is not made again, and an
interrupted training goes on where it stopped.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genrefine import ClassPipeline, VisualTokenizer, presets
from genrefine.data import ImageSource
from genrefine.evaluation.features import EfficientNetFeatures, collect_features
from genrefine.evaluation.frechet import kernel_distance
from genrefine.evaluation.pictures import pixel_batches
from genrefine.evaluation.pixels import psnr
from genrefine.evaluation.samples import draw_samples, labels_like
from genrefine.media.pixels import from_uint8
from genrefine.pipelines import load_component

SAMPLING = {"num_inference_steps": 24, "guidance_scale": 2.5, "temperature": 0.7}


def point(name: str, folder: Path, rounds: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Train a refiner at one rate, draw its samples and judge them."""
    run = chosen.out / f"{name}-m{rounds}"
    tokenizer = load_component(folder, VisualTokenizer).with_rounds(rounds).eval()
    before = time.perf_counter()
    preset = presets.get("emoji-class", {**changes(chosen), "tokenizer": str(folder), "rounds": str(rounds)})
    pipe = ClassPipeline.from_pretrained(preset.run(run / "training"), dtype=getattr(torch, chosen.dtype))
    trained = time.perf_counter()
    pipe.set_progress_bar_config(disable=True)
    data = preset.settings.data
    held_out = ImageSource(
        data.source,
        size=data.size,
        split=data.heldout,
        label_column=data.label_column or None,
        keep=data.where(),
        class_names=pipe.class_names,
    )
    labels = labels_like(held_out.labels, len(pipe.class_names), chosen.num_samples)
    samples = draw_samples(pipe, labels, chosen.batch_size, run / "samples", **SAMPLING)
    extractor, generator = EfficientNetFeatures(), torch.Generator().manual_seed(0)
    of_samples = collect_features(
        extractor, [from_uint8(part.permute(0, 2, 3, 1)[:, None]) for part in samples.frames.split(32)]
    )
    of_held_out = collect_features(extractor, pixel_batches(held_out, 32, True, "held-out features"))
    kernel = kernel_distance(of_samples, of_held_out, generator)
    decibels = [psnr(tokenizer.decode(tokenizer.encode(x)), x) for x in pixel_batches(held_out, 32, True, "decoding")]
    return {
        "latent_dim": tokenizer.latent_dim,
        "bits_per_picture": round(tokenizer.bits_per_pixel(1, data.size, data.size) * data.size**2),
        "psnr": float(torch.cat(decibels).mean()),
        "kid": kernel.mean,
        "kid_std": kernel.std,
        "num_held_out": len(held_out),
        "training_loss": last_loss(run / "training"),
        "parameters": sum(parameter.numel() for parameter in pipe.refiner.parameters()),
        "training_seconds": round(trained - before),
        "sampling_seconds": round(time.perf_counter() - trained),
    }


def last_loss(run: Path) -> float | None:
    """Return the mean training loss over the last tenth of what was logged, in nats per label."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail) if tail else None


def changes(chosen: argparse.Namespace) -> dict[str, str]:
    """Return what distinguishes the refiners of a sweep from the preset."""
    own = {
        "refiner.width": chosen.width,
        "refiner.depth": chosen.depth,
        "refiner.num_heads": max(1, chosen.width // 64),
        "refiner.bottleneck": chosen.bottleneck,
        "training.num_steps": chosen.steps,
        "training.batch_size": 64,
        "training.preview_every": chosen.steps,
        "training.warmup_steps": min(100, chosen.steps),
    }
    given = dict(pair.split("=", 1) for pair in chosen.set)
    return {**{name: str(value) for name, value in own.items()}, **given}


def table(points: Sequence[dict[str, Any]]) -> str:
    """Return the points as Markdown, best KID first."""
    lines = ["| tokenizer | d | M | bits per picture | PSNR, dB | loss, nats | KID |", "|---|---|---|---|---|---|---|"]
    for one in sorted(points, key=lambda one: one["kid"]):
        loss = f"{one['training_loss']:.3f}" if one["training_loss"] is not None else ""
        lines.append(
            f"| {one['run']['name']} | {one['latent_dim']} | {one['run']['rounds']} | {one['bits_per_picture']:,} "
            f"| {one['psnr']:.2f} | {loss} | {one['kid']:.4f} ± {one['kid_std']:.4f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the points that are missing and show all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tokenizers", nargs="+", metavar="NAME=DIR", help="tokenizers trained for all the rounds")
    parser.add_argument("--rounds", type=int, nargs="+", default=[2, 3, 4], metavar="M")
    parser.add_argument("--out", type=Path, default=Path("runs/rates"))
    parser.add_argument("--steps", type=int, default=600, help="updates of every refiner")
    parser.add_argument("--num-samples", type=int, default=256, help="samples of every refiner")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--bottleneck", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64, help="samples drawn at once")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of sampling")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="of the preset")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    file = chosen.out / "points.jsonl"
    points = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    for name, _, folder in (word.partition("=") for word in chosen.tokenizers):
        for rounds in chosen.rounds:
            run = {"name": name, "rounds": rounds, "samples": chosen.num_samples, **SAMPLING, **changes(chosen)}
            if any(one["run"] == run for one in points):
                continue
            points.append({"run": run, **point(name, Path(folder), rounds, chosen)})
            with open(file, "a") as stream:
                stream.write(json.dumps(points[-1]) + "\n")
            print(table(points[-1:]), flush=True)
    print(table(points))


if __name__ == "__main__":
    main()
