"""Draw the picture sheets of a class pipeline: what it reconstructs, samples, might have memorized, and how it refines.

    python scripts/make_sheets.py --model emoji-class --data datasets/emoji --out docs/images

writes

    reconstructions.png    held-out pictures above what the tokenizer makes of them
    samples.png            samples of every class: a row per group, a column per style
    neighbors.png          16 samples, each with the training pictures nearest in EfficientNet-Lite0 features
    fixed_adaptive.png     the same seeds with the fixed and with the entropy-guided number of steps
    refinement.gif         how up to four pictures emerge

All random choices come from `--seed`; samples have the seeds that follow it. Every PNG tells in its metadata how it was
made (`genrefine.media.writing.read_png_metadata`).
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from genrefine.data import ImageSource
from genrefine.errors import GenrefineError
from genrefine.evaluation.features import EfficientNetFeatures, collect_features
from genrefine.evaluation.neighbors import nearest_neighbors
from genrefine.evaluation.pictures import pixel_batches
from genrefine.evaluation.pixels import psnr
from genrefine.media.pixels import from_pil, to_pil
from genrefine.media.sheets import INK, PAPER, caption_font, image_grid
from genrefine.media.writing import save_animation, save_png
from genrefine.model_folder.find import find_model
from genrefine.pipelines import ClassPipeline, FilmRecorder
from genrefine.pipelines.film import draw_film

LARGEST_BYTES = 1_500_000
GAP = 6


@dataclass(frozen=True)
class Context:
    """What every sheet draws from."""

    pipe: ClassPipeline
    data: str
    held_out_split: str
    training_split: str
    keep: dict[str, str]
    seed: int
    progress: bool

    def source(self, split: str) -> ImageSource:
        """Open a split with the classes and the picture size of the pipeline."""
        return ImageSource(
            self.data, size=self.pipe.picture_size, split=split, keep=self.keep, class_names=self.pipe.class_names
        )

    def sample(self, labels: Sequence[int], **sampling: Any) -> Any:
        """Draw one picture per label, with the seeds that follow `seed`."""
        return self.pipe(list(labels), seed=self.seed, **sampling)

    def chosen(self, population: int, count: int) -> list[int]:
        """Choose some of many, by seed."""
        order = torch.randperm(population, generator=torch.Generator().manual_seed(self.seed))
        return order[:count].tolist()


def table(
    cells: Sequence[Sequence[Image.Image]], rows: Sequence[str], columns: Sequence[str], span: int
) -> Image.Image:
    """Lay pictures out in rows and columns with headings; every column heading spans `span` pictures."""
    font = caption_font(13)
    left = 3 * GAP + max((round(font.getlength(name)) for name in rows), default=0)
    top = 28
    side_x, side_y = cells[0][0].width + GAP, cells[0][0].height + GAP
    between = GAP  # further space between columns of different headings
    width = left + len(cells[0]) * side_x + (len(columns) - 1) * between + GAP
    sheet = Image.new("RGB", (width, top + len(cells) * side_y + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(columns):
        middle = left + number * (span * side_x + between) + span * side_x / 2
        draw.text((middle, top / 2), name, INK, font, anchor="mm")
    for row, (name, pictures) in enumerate(zip(rows, cells, strict=True)):
        draw.text((left - 2 * GAP, top + row * side_y + side_y / 2), name, INK, font, anchor="rm")
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (left + column * side_x + column // span * between, top + row * side_y))
    return sheet


def reconstructions(context: Context, out: Path, count: int = 30, per_row: int = 15) -> None:
    """Draw held-out pictures above their reconstructions."""
    source, tokenizer = context.source(context.held_out_split), context.pipe.visual_tokenizer
    originals = torch.stack([source[index][0] for index in context.chosen(len(source), count)])
    output = torch.cat([tokenizer.decode(tokenizer.encode(part)) for part in originals.split(8)])
    decibels = psnr(output, originals).mean().item()
    rows, names = [], []
    for start in range(0, len(originals), per_row):
        # Slices are filled up with blank pictures, so that all rows are equally long.
        for name, pixels in (("original", originals), ("decoded", output)):
            pictures = to_pil(pixels[start : start + per_row])
            blank = Image.new("RGB", pictures[0].size, PAPER)
            rows.append(pictures + [blank] * (min(per_row, len(originals)) - len(pictures)))
            names.append(name)
    rate = tokenizer.bits_per_pixel(1, *context.pipe.picture_size)
    title = f"split '{context.held_out_split}': {decibels:.1f} dB at {rate:.2f} bits per pixel"
    made = {"psnr": decibels, "bits_per_pixel": rate, "split": context.held_out_split, "seed": context.seed}
    save_png(table(rows, names, [title], len(rows[0])), out / "reconstructions.png", made)


def samples(context: Context, out: Path, per_class: int = 4) -> None:
    """Draw samples of every class: rows are groups, columns styles, where class names say both."""
    names = context.pipe.class_names
    pairs = [name.split("/") for name in names]
    labels = [number for number in range(len(names)) for _ in range(per_class)]
    output = context.sample(labels)
    of_class = [output.images[start : start + per_class] for start in range(0, len(labels), per_class)]
    if all(len(pair) == 2 for pair in pairs):
        groups, styles = (list(dict.fromkeys(pair[place] for pair in pairs)) for place in (0, 1))
        blank = [Image.new("RGB", of_class[0][0].size, PAPER)] * per_class
        by_name = dict(zip(names, of_class, strict=True))
        cells = [[p for style in styles for p in by_name.get(f"{group}/{style}", blank)] for group in groups]
        sheet = table(cells, groups, styles, per_class)
    else:
        sheet = table(of_class, names, [""], per_class)
    save_png(sheet, out / "samples.png", {"settings": output.settings, "seeds": output.seeds, "labels": labels})


def neighbors(context: Context, out: Path, count: int = 16, per_sample: int = 4) -> None:
    """Draw samples with the nearest training pictures beside them."""
    training, extractor = context.source(context.training_split), EfficientNetFeatures()
    labels = [number * len(context.pipe.class_names) // count for number in range(count)]
    output = context.sample(labels)
    of_samples = collect_features(extractor, [from_pil(image) for image in output.images])
    of_training = collect_features(extractor, pixel_batches(training, 32, context.progress, "training features"))
    found = nearest_neighbors(of_samples, of_training, min(per_sample, len(training)))
    pictures, captions = [], []
    for number, image in enumerate(output.images):
        pictures += [image, *(training.picture(index) for index in found.indices[number].tolist())]
        captions += ["sample", *(f"{distance:.3f}" for distance in found.distances[number].tolist())]
        if number % 2 == 0:  # an empty cell keeps the two samples of a row apart
            pictures.append(Image.new("RGB", (1, 1), PAPER))
            captions.append("")
    columns = 2 * (found.indices.shape[1] + 1) + 1
    made = {
        "settings": output.settings,
        "seeds": output.seeds,
        "labels": labels,
        "extractor": extractor.description,
        "neighbors": [[training.names[index] for index in row] for row in found.indices.tolist()],
        "cosine_distances": found.distances.tolist(),
    }
    save_png(image_grid(pictures, columns=columns, labels=captions), out / "neighbors.png", made)


def fixed_adaptive(context: Context, out: Path, count: int = 14) -> None:
    """Draw the same seeds with fixed steps above entropy-guided steps."""
    if context.pipe.sampler.config.entropy_steps is None:
        raise GenrefineError(
            "fixed_adaptive.png needs a calibrated model; run genrefine calibrate, or leave the sheet out"
        )
    names = context.pipe.class_names
    labels = [number * len(names) // count for number in range(count)]
    fixed, adaptive = context.sample(labels), context.sample(labels, adaptive=True)
    pictures = [*fixed.images, *adaptive.images]
    captions = [f"{steps} steps" for steps in [*fixed.num_steps, *adaptive.num_steps]]
    made = {
        name: {"settings": output.settings, "num_steps": output.num_steps, "num_evaluations": output.num_evaluations}
        for name, output in (("fixed", fixed), ("adaptive", adaptive))
    }
    sheet = image_grid(pictures, columns=count, labels=captions)
    save_png(sheet, out / "fixed_adaptive.png", {**made, "seeds": fixed.seeds, "labels": labels})


def refinement(context: Context, out: Path, count: int = 4, steps: int = 24) -> None:
    """Film how pictures emerge, as many of them as make a small file."""
    names = context.pipe.class_names
    labels = [number * len(names) // count for number in range(count)]
    recorder = FilmRecorder([names[label] for label in labels])
    context.sample(labels, num_inference_steps=steps, **recorder.arguments)
    for shown in (count, count // 2, 1):
        save_animation(draw_film(recorder.panels[:shown]), out / "refinement.gif")
        if (out / "refinement.gif").stat().st_size <= LARGEST_BYTES:
            return


SHEETS: dict[str, tuple[Callable[..., None], str]] = {
    "reconstructions": (reconstructions, "reconstructions.png"),
    "samples": (samples, "samples.png"),
    "neighbors": (neighbors, "neighbors.png"),
    "fixed_adaptive": (fixed_adaptive, "fixed_adaptive.png"),
    "refinement": (refinement, "refinement.gif"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the sheets that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="emoji-class", help="pipeline folder or name of a shipped model")
    parser.add_argument("--data", default="datasets/emoji", help="image folder, parquet files or data set")
    parser.add_argument("--held-out-split", default="concept")
    parser.add_argument("--training-split", default="train")
    parser.add_argument("--keep", nargs="*", default=["skin_tone="], metavar="COLUMN=VALUE", help="pictures to take")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="+", choices=SHEETS, default=list(SHEETS), help="sheets to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    chosen = parser.parse_args(arguments)
    folder = find_model(chosen.model)
    pipe = ClassPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=chosen.quiet)
    keep = {name: value for name, _, value in (pair.partition("=") for pair in chosen.keep)}
    context = Context(
        pipe, chosen.data, chosen.held_out_split, chosen.training_split, keep, chosen.seed, not chosen.quiet
    )
    for name in chosen.only:
        draw, file = SHEETS[name]
        draw(context, chosen.out)
        size = (chosen.out / file).stat().st_size
        print(f"{chosen.out / file}  {size / 1000:.0f} kB" + ("  too large to commit" if size > LARGEST_BYTES else ""))


if __name__ == "__main__":
    main()
