"""Measure editing on emoji that training did not show: other concepts, other styles, hidden quarters, found masks.

    python scripts/measure_editing.py --count 100 --json editing.json

Pictures are those of the split `pair`: a concept in a style in which training did not show it. Four tables:

    style       "noto emoji of X" becomes "fluent emoji of X": over strength, and with the mask that `change_map` finds
    concept     "noto emoji of X" becomes "noto emoji of Y", Y being of the same subgroup: likewise
    quarter     a hidden quarter, painted anew with the caption: distance to the real picture, beside plain generation
                and the mean color of what is left
    mask        the found mask against the positions where the real pictures of two styles differ, beside chance

A target is found if the nearest real picture (EfficientNet-Lite0 features, all styles) shows it. Differences between
ways are paired, with a 95 % interval (bootstrap over pictures).
"""

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

import genrefine
from genrefine.evaluation.features import EfficientNetFeatures
from genrefine.media.pixels import from_pil
from genrefine.pipelines import change_map
from genrefine.pipelines.canvas import read_picture

STYLES = ("noto", "twemoji", "fluent")
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
PAINTED = "painted with the caption"
DIFFERS = 0.1
"""Mean difference of levels, in [0, 1], from which two pictures differ at a position."""


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Return mean, and the ends of its 95 % interval by bootstrap."""
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(array), (2000, len(array)))
    means = array[draws].mean(1)
    return float(array.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def told(values: Sequence[float], digits: int = 2) -> str:
    """Return mean and interval as text."""
    mean, low, high = interval(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


class Emoji:
    """Real pictures, their captions, and which of them is nearest to a made one."""

    def __init__(self, data: str) -> None:
        rows: list[dict[str, Any]] = []
        for split in ("train", "pair", "concept"):
            rows += [row for row in datasets.load_dataset(data, split=split) if not row["skin_tone"]]
        self.rows, self.pictures = rows, [read_picture(row["image"], "image") for row in rows]
        self.extractor = EfficientNetFeatures()
        self.places = {(row["hexcode"], row["style"]): place for place, row in enumerate(rows)}

    @cached_property
    def features(self) -> torch.Tensor:
        """Features of all pictures, which take minutes."""
        return self.features_of(self.pictures)

    def features_of(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return features of pictures, of length one."""
        batches = [
            torch.cat([from_pil(one)[:, :, 0] for one in pictures[i : i + 64]]) for i in range(0, len(pictures), 64)
        ]
        with torch.no_grad():
            return torch.nn.functional.normalize(torch.cat([self.extractor(batch) for batch in batches]), dim=1)

    def nearest(self, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        """Return the row of the nearest real picture of each."""
        best = (self.features_of(pictures) @ self.features.T).argmax(1)
        return [self.rows[place] for place in best.tolist()]


def psnr_kept(made: Image.Image, real: Image.Image, mask: Image.Image | None) -> float:
    """Return the PSNR outside of a mask, in dB; over all where there is none."""
    error = (np.asarray(made, dtype=np.float64) - np.asarray(real, dtype=np.float64)) ** 2
    outside = np.ones(error.shape[:2], bool) if mask is None else np.asarray(mask) < 128
    if not outside.any():
        return math.nan
    return 10 * math.log10(255**2 / max(float(error[outside].mean()), 1e-2))


def changes(pipe: Any, emoji: Emoji, sources: list[int], kind: str, draw: random.Random) -> list[str]:
    """Measure changes of style or of concept."""
    jobs = []
    for place in sources:
        row = emoji.rows[place]
        if kind == "style":
            style = draw.choice([other for other in STYLES if other != row["style"]])
            jobs.append((place, f"{style} emoji of {row['label']}", row["hexcode"], style))
        else:
            same = sorted({o["hexcode"] for o in emoji.rows if o["subgroup"] == row["subgroup"]} - {row["hexcode"]})
            others = [emoji.places[code, row["style"]] for code in same if (code, row["style"]) in emoji.places]
            if not others:
                continue
            other = emoji.rows[draw.choice(others)]
            jobs.append((place, f"{row['style']} emoji of {other['label']}", other["hexcode"], row["style"]))
    old = [f"{emoji.rows[place]['style']} emoji of {emoji.rows[place]['label']}" for place, *_ in jobs]
    images = [emoji.pictures[place] for place, *_ in jobs]
    new = [prompt for _, prompt, _, _ in jobs]
    found = [change_map(pipe, *each).mask() for each in zip(images, old, new, strict=True)]
    lines = [f"\n| change of {kind}, {len(jobs)} pictures | target found | style found | PSNR outside |"]
    lines.append("|---|---|---|---|")
    ways: list[tuple[str, dict[str, Any]]] = [(f"strength {s}", {"strength": s}) for s in STRENGTHS]
    for name, given in (
        *ways,
        ("mask found, strength 1", {"mask_image": found}),
        ("mask found, strength 0.7", {"mask_image": found, "strength": 0.7}),
    ):
        made = pipe(new, image=images, seed=0, adaptive=True, **given).images
        rows = emoji.nearest(made)
        hits = [float(row["hexcode"] == code) for row, (_, _, code, _) in zip(rows, jobs, strict=True)]
        styles = [float(row["style"] == style) for row, (*_, style) in zip(rows, jobs, strict=True)]
        masks = found if "mask_image" in given else [None] * len(jobs)
        kept = [psnr_kept(*each) for each in zip(made, images, masks, strict=True)]
        kept = [value for value in kept if not math.isnan(value)]
        lines.append(f"| {name} | {told(hits)} | {told(styles)} | {np.mean(kept):.1f} dB |")
    return lines


def quarters(pipe: Any, emoji: Emoji, sources: list[int]) -> list[str]:
    """Measure painting a hidden quarter anew."""
    images = [emoji.pictures[place] for place in sources]
    prompts = [f"{emoji.rows[place]['style']} emoji of {emoji.rows[place]['label']}" for place in sources]
    width, height = images[0].size
    box = (0, 0, width // 2, height // 2)
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    holed, means = [], []
    for image in images:
        levels = np.asarray(image, dtype=np.float64)
        rest = levels[np.asarray(mask) < 128].mean(0)
        hole = image.copy()
        hole.paste(tuple(round(level) for level in rest), box)
        holed.append(hole)  # what is hidden is seen by nothing
        means.append(hole)
    painted = pipe(prompts, image=holed, mask_image=mask, seed=0, adaptive=True).images
    blind = pipe([""] * len(images), image=holed, mask_image=mask, seed=0, adaptive=True, guidance_scale=1.0).images
    plain = pipe(prompts, seed=0, adaptive=True).images
    ways = {
        PAINTED: painted,
        "painted without a caption": blind,
        "plain generation": plain,
        "mean color": means,
    }
    errors = {
        name: [
            float(((np.asarray(a.crop(box), float) - np.asarray(b.crop(box), float)) / 255).__pow__(2).mean() ** 0.5)
            for a, b in zip(made, images, strict=True)
        ]
        for name, made in ways.items()
    }
    features = emoji.features_of(images)
    head = f"\n| hidden quarter, {len(images)} pictures | RMS error in it | more than painted | cosine of features |"
    lines = [head, "|---|---|---|---|"]
    for name, values in errors.items():
        more = [value - own for value, own in zip(values, errors[PAINTED], strict=True)]
        cosine = (emoji.features_of(ways[name]) * features).sum(1).tolist()
        lines.append(f"| {name} | {told(values, 3)} | {told(more, 3) if any(more) else ''} | {told(cosine, 3)} |")
    return lines


def masks(pipe: Any, emoji: Emoji, sources: list[int], draw: random.Random) -> list[str]:
    """Measure the mask that is found against where two styles' pictures differ."""
    rows: dict[str, list[float]] = {"found": [], "grown by one": [], "chance, as many positions": [], "everything": []}
    for place in sources:
        row = emoji.rows[place]
        others = [style for style in STYLES if style != row["style"] and (row["hexcode"], style) in emoji.places]
        if not others:
            continue
        style = draw.choice(others)
        a, b = emoji.pictures[place], emoji.pictures[emoji.places[row["hexcode"], style]]
        stride = pipe.visual_tokenizer.spatial_stride
        difference = np.abs(np.asarray(a, float) - np.asarray(b, float)).mean(2) / 255
        grid = difference.reshape(a.height // stride, stride, a.width // stride, stride).mean((1, 3)) > DIFFERS
        found = change_map(pipe, a, f"{row['style']} emoji of {row['label']}", f"{style} emoji of {row['label']}")
        above = (found.values > found.threshold).numpy()
        grown = np.asarray(found.mask().resize(above.shape[::-1], Image.Resampling.NEAREST)) > 127
        shuffled = above.flatten()
        np.random.default_rng(place).shuffle(shuffled)
        for name, mask in (
            ("found", above),
            ("grown by one", grown),
            ("chance, as many positions", shuffled.reshape(above.shape)),
            ("everything", np.ones_like(above)),
        ):
            union = (mask | grid).sum()
            rows[name].append(float((mask & grid).sum() / union) if union else 1.0)
    lines = [f"\n| mask, {len(rows['found'])} pictures | intersection over union |", "|---|---|"]
    return lines + [f"| {name} | {told(values)} |" for name, values in rows.items()]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description="Measure editing on emoji that training did not show.")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", default="datasets/emoji")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=("style", "concept", "quarter", "mask"), help="tables to make")
    parser.add_argument("--json", type=Path, help="write the tables' lines")
    options = parser.parse_args()
    pipe = genrefine.load(options.model)
    pipe.set_progress_bar_config(disable=True)
    emoji, draw = Emoji(options.data), random.Random(options.seed)
    held_out = [place for place, row in enumerate(emoji.rows) if row["split"] == "pair"]
    sources = draw.sample(held_out, min(options.count, len(held_out)))
    lines: list[str] = []
    tables: dict[str, Callable[[], list[str]]] = {
        "style": lambda: changes(pipe, emoji, sources, "style", random.Random(options.seed)),
        "concept": lambda: changes(pipe, emoji, sources, "concept", random.Random(options.seed)),
        "quarter": lambda: quarters(pipe, emoji, sources),
        "mask": lambda: masks(pipe, emoji, sources, random.Random(options.seed)),
    }
    for name in options.only or tables:
        rows = tables[name]()
        print("\n".join(rows), flush=True)
        lines += rows
    if options.json:
        options.json.write_text(json.dumps({"count": len(sources), "seed": options.seed, "lines": lines}, indent=1))


if __name__ == "__main__":
    main()
