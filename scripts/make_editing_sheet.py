"""Draw what editing does: a row per edit, the picture, where it changes, and results of seeds that follow each other.

    python scripts/make_editing_sheet.py --model emoji --out docs/images

writes `editing.png`. Pictures are real emoji, of styles in which training did not show them where that is said; seeds
are those that follow `--seed`, none picked.
"""

import argparse
from pathlib import Path
from typing import Any

import datasets
from make_sheets import table
from PIL import Image

import genrefine
from genrefine.media.sheets import enlarge
from genrefine.media.writing import save_png
from genrefine.pipelines import change_map
from genrefine.pipelines.canvas import read_picture

RESULTS = 4
CHANGES = (
    ("red heart", "noto", "noto emoji of blue heart"),
    ("grinning face", "fluent", "fluent emoji of crying face"),
    ("dog face", "twemoji", "twemoji emoji of cat face"),
    ("pizza", "noto", "fluent emoji of pizza"),
)
HOLES = (("sunflower", "noto"), ("rocket", "fluent"), ("hamburger", "twemoji"))


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description="Draw what editing does.")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", default="datasets/emoji")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    pipe = genrefine.load(options.model)
    pipe.set_progress_bar_config(disable=True)
    real: dict[tuple[str, str], tuple[Image.Image, str]] = {}
    for split in ("pair", "concept", "train"):
        for row in datasets.load_dataset(options.data, split=split):
            if not row["skin_tone"]:
                key = (row["label"], row["style"])
                real.setdefault(key, (read_picture(row["image"], "image"), split))
    rows: list[list[Image.Image]] = []
    labels: list[str] = []

    def made(prompt: str, **arguments: Any) -> list[Image.Image]:
        output = pipe(prompt, num_images_per_prompt=RESULTS, seed=options.seed, adaptive=True, **arguments)
        return list(output.images)

    for label, style, prompt in CHANGES:
        picture, split = real[label, style]
        found = change_map(pipe, picture, f"{style} emoji of {label}", prompt)
        rows.append([picture, found.picture().convert("RGB"), *made(prompt, image=picture, mask_image=found.mask())])
        labels.append(f"{label} ({split}) -> {prompt}")
    for label, style in HOLES:
        picture, split = real[label, style]
        mask = Image.new("L", picture.size)
        mask.paste(255, (picture.width // 2, 0, picture.width, picture.height))
        hidden = picture.copy()
        hidden.paste("white", (picture.width // 2, 0, picture.width, picture.height))
        prompt = f"{style} emoji of {label}"
        rows.append([hidden, mask.convert("RGB"), *made(prompt, image=hidden, mask_image=mask)])
        labels.append(f"{label} ({split}), right half hidden")
    headings = ["picture", "where", *(f"seed {options.seed + i}" for i in range(RESULTS))]
    sheet = table([[enlarge(cell, 2) for cell in row] for row in rows], labels, headings, span=1)
    options.out.mkdir(parents=True, exist_ok=True)
    notes = {"model": options.model, "seed": options.seed, "adaptive": True, "rows": labels}
    save_png(sheet, options.out / "editing.png", notes)


if __name__ == "__main__":
    main()
