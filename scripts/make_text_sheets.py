"""Draw the sheets of a text pipeline: pictures of prompts, clips, first frames in motion, held-out pairs, a film.

    python scripts/make_text_sheets.py --model emoji --out docs/images

writes

    prompts.png              common prompts: a row per prompt, a column per style
    clips.png, .webp         clips of held-out captions: strips of their frames, and all of them moving
    first_frames.png, .webp  held-out pictures set in motion: the given picture, then frames of the clip
    held_out_pairs.png       pictures of captions whose concept was never seen in that style, beside the real ones
    text_refinement.gif      how up to four pictures emerge

Prompts are fixed and captions are chosen by `--seed`; samples have the seeds that follow it, none picked. Every PNG and
WebP tells in its metadata how it was made (`genrefine.media.writing.read_png_metadata`, `read_clip_metadata`).
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from make_sheets import LARGEST_BYTES, table
from PIL import Image

from genrefine import TextPipeline
from genrefine.data import ClipSource, ImageSource
from genrefine.media.sheets import PAPER, image_grid
from genrefine.media.writing import save_animation, save_clip, save_png
from genrefine.model_folder.find import find_model
from genrefine.pipelines import FilmRecorder
from genrefine.pipelines.film import draw_film

STYLES = ("noto", "twemoji", "fluent")
PROMPTS = (
    "red heart",
    "thumbs up",
    "pizza",
    "dog face",
    "rocket",
    "flag of Japan",
    "grinning face",
    "cat face",
    "birthday cake",
    "house",
    "sun",
    "bicycle",
)


@dataclass(frozen=True)
class Context:
    """What every sheet draws from."""

    pipe: TextPipeline
    data: str
    clips: str
    keep: dict[str, str]
    caption_column: str
    num_frames: int
    seed: int

    def pictures(self, split: str) -> ImageSource:
        """Open captioned pictures in the size of the pipeline."""
        size, captions = self.pipe.picture_size, self.caption_column
        return ImageSource(self.data, size=size, split=split, keep=self.keep, caption_column=captions)

    def films(self, split: str) -> ClipSource:
        """Open captioned clips."""
        size, captions = self.pipe.picture_size, self.caption_column
        return ClipSource(self.clips, num_frames=self.num_frames, size=size, split=split, caption_column=captions)

    def chosen(self, population: int, count: int) -> list[int]:
        """Choose some of many, by seed."""
        order = torch.randperm(population, generator=torch.Generator().manual_seed(self.seed))
        return order[:count].tolist()

    def sample(self, prompts: Sequence[str], **arguments: Any) -> Any:
        """Draw one sample per prompt, with the seeds that follow `seed`."""
        return self.pipe(list(prompts), seed=self.seed, **arguments)


def notes(output: Any, **more: Any) -> dict[str, Any]:
    """Return how samples were made."""
    return {"prompts": output.prompts, "seeds": output.seeds, "settings": output.settings, **more}


def spread(frames: Sequence[Image.Image], count: int) -> list[Image.Image]:
    """Return some frames of a clip, the first and the last among them."""
    count = min(count, len(frames))
    return [frames[round(place * (len(frames) - 1) / max(1, count - 1))] for place in range(count)]


def prompts(context: Context, out: Path, per_cell: int = 3) -> None:
    """Draw common prompts: rows are prompts, columns styles."""
    asked = [f"{style} emoji of {prompt}" for prompt in PROMPTS for style in STYLES for _ in range(per_cell)]
    output = context.sample(asked)
    width = per_cell * len(STYLES)
    rows = [output.images[start : start + width] for start in range(0, len(asked), width)]
    save_png(table(rows, PROMPTS, STYLES, per_cell), out / "prompts.png", notes(output))


def clips(context: Context, out: Path, count: int = 12, shown: int = 9) -> None:
    """Draw clips of held-out captions as strips, and all of them moving."""
    source = context.films("pair")
    asked = [source.captions[place][0] for place in context.chosen(len(source), count)]
    output = context.sample(asked, num_frames=context.num_frames)
    _save_moving(context, out / "clips", [spread(clip, shown) for clip in output.frames], output)


def first_frames(context: Context, out: Path, count: int = 12, shown: int = 8) -> None:
    """Set held-out pictures in motion: of each the picture that was given, then frames of the clip."""
    source = context.films("concept")
    places = context.chosen(len(source), count)
    asked = [source.captions[place][0] for place in places]
    given = [source.frames(place)[0] for place in places]
    output = context.sample(asked, num_frames=context.num_frames, first_frame=given)
    strips = [[first, *spread(clip, shown)] for first, clip in zip(given, output.frames, strict=True)]
    _save_moving(context, out / "first_frames", strips, output, first_frames=[source.names[place] for place in places])


def _save_moving(
    context: Context, path: Path, strips: Sequence[Sequence[Image.Image]], output: Any, **more: Any
) -> None:
    """Write a PNG with a row of frames per clip, and a WebP in which all clips move."""
    made = notes(output, **more)
    save_png(table(strips, output.prompts, [""], len(strips[0])), path.with_suffix(".png"), made)
    moments = [image_grid(moment, scale=2, gap=4) for moment in zip(*output.frames, strict=True)]
    rate = context.pipe.frames_per_second
    save_clip(moments, path.with_suffix(".webp"), frames_per_second=rate, metadata=made)


def held_out_pairs(context: Context, out: Path, count: int = 28, per_row: int = 14) -> None:
    """Draw pictures of captions of the pair split below the real pictures."""
    source = context.pictures("pair")
    places = context.chosen(len(source), count)
    output = context.sample([source.captions[place][0] for place in places])
    real = [source.picture(place) for place in places]
    rows, names = [], []
    for start in range(0, len(places), per_row):
        for name, pictures in (("real", real), ("generated", output.images)):
            row = list(pictures[start : start + per_row])
            blank = Image.new("RGB", row[0].size, PAPER)
            rows.append(row + [blank] * (min(per_row, len(places)) - len(row)))
            names.append(name)
    title = "concepts that training shows in other styles only"
    made = notes(output, pictures=[source.names[place] for place in places])
    save_png(table(rows, names, [title], len(rows[0])), out / "held_out_pairs.png", made)


def refinement(context: Context, out: Path, count: int = 4, steps: int = 24) -> None:
    """Film how pictures emerge, as many of them as make a small file."""
    asked = [f"{STYLES[number % len(STYLES)]} emoji of {prompt}" for number, prompt in enumerate(PROMPTS[:count])]
    recorder = FilmRecorder(asked)
    context.sample(asked, num_inference_steps=steps, **recorder.arguments)
    for shown in (count, count // 2, 1):
        save_animation(draw_film(recorder.panels[:shown]), out / "text_refinement.gif")
        if (out / "text_refinement.gif").stat().st_size <= LARGEST_BYTES:
            return


SHEETS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "prompts": (prompts, ("prompts.png",)),
    "clips": (clips, ("clips.png", "clips.webp")),
    "first_frames": (first_frames, ("first_frames.png", "first_frames.webp")),
    "held_out_pairs": (held_out_pairs, ("held_out_pairs.png",)),
    "refinement": (refinement, ("text_refinement.gif",)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the sheets that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="emoji", help="pipeline folder or name of a shipped model")
    parser.add_argument("--data", default="datasets/emoji", help="captioned pictures with a split 'pair'")
    parser.add_argument("--clips", default="datasets/emoji-clips", help="captioned clips, splits 'pair' and 'concept'")
    parser.add_argument("--keep", nargs="*", default=["skin_tone="], metavar="COLUMN=VALUE", help="pictures to take")
    parser.add_argument("--caption-column", default="captions")
    parser.add_argument("--frames", type=int, default=17, help="of a clip")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="+", choices=SHEETS, default=list(SHEETS), help="sheets to draw")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the networks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    chosen = parser.parse_args(arguments)
    folder = find_model(chosen.model)
    pipe = TextPipeline.from_pretrained(folder, dtype=getattr(torch, chosen.dtype))
    pipe.set_progress_bar_config(disable=chosen.quiet)
    keep = {name: value for name, _, value in (pair.partition("=") for pair in chosen.keep)}
    context = Context(pipe, chosen.data, chosen.clips, keep, chosen.caption_column, chosen.frames, chosen.seed)
    for name in chosen.only:
        draw, files = SHEETS[name]
        draw(context, chosen.out)
        for file in files:
            size = (chosen.out / file).stat().st_size
            large = "  too large to commit" if size > LARGEST_BYTES else ""
            print(f"{chosen.out / file}  {size / 1000:.0f} kB{large}")


if __name__ == "__main__":
    main()
