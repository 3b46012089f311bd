"""Draw the same seeds of a model before and after fine-tuning, a column per class of the new data.

    python scripts/fine_tuning_sheet.py --data fashion/test --adapter runs/lora/adapter --full runs/full/pipeline

Rows: a picture of the data, the model itself (the adapter at scale 0: classes that the model does not know start as no
class), the model with the adapter, and the model whose weights were all trained.
"""

import argparse
from pathlib import Path
from typing import Any

from genrefine import ClassPipeline
from genrefine.data import ImageSource
from genrefine.media.pixels import to_pil
from genrefine.media.sheets import image_grid
from genrefine.media.writing import save_png
from genrefine.model_folder.find import find_model


def main(arguments: list[str] | None = None) -> None:
    """Draw."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--model", default="emoji-class", help="pipeline folder or name of a shipped model")
    options.add_argument("--data", required=True, help="image folder with the new classes")
    options.add_argument("--adapter", type=Path, required=True)
    options.add_argument("--full", type=Path, required=True, help="pipeline folder")
    options.add_argument("--seed", type=int, default=0, help="of the first column, the others following by ones")
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--out", type=Path, default=Path("docs/images/fine_tuning.png"))
    chosen = options.parse_args(arguments)
    folder = find_model(chosen.model)
    pipe = ClassPipeline.from_pretrained(folder)
    pipe.load_lora_weights(chosen.adapter)
    names = pipe.class_names
    source = ImageSource(chosen.data, size=pipe.picture_size, class_names=names)
    firsts = [list(source.labels).index(number) for number in range(len(names))]
    rows: list[list[Any]] = [[to_pil(source[index][0][None])[0] for index in firsts]]

    def draw(pipeline: ClassPipeline) -> None:
        pipeline.set_progress_bar_config(disable=True)
        seeds = [chosen.seed + number for number in range(len(names))]
        output: Any = pipeline(names, seed=seeds, num_inference_steps=chosen.steps)
        rows.append(output.images)

    pipe.set_adapters("default", 0.0)
    draw(pipe)
    pipe.set_adapters("default", 1.0)
    draw(pipe)
    draw(ClassPipeline.from_pretrained(chosen.full))
    words = ["data", "before", "adapter", "full"]
    titles = [f"{name}" if row == 0 else words[row] for row in range(len(rows)) for name in names]
    sheet = image_grid([picture for row in rows for picture in row], columns=len(names), labels=titles, scale=2)
    save_png(sheet, chosen.out, {"rows": words, "classes": names, "first_seed": chosen.seed, "steps": chosen.steps})
    print(chosen.out)


if __name__ == "__main__":
    main()
