"""Train on a folder of your own pictures: tokenizer, refiner, step budget, new pictures, in about two minutes.

The folder holds one subfolder per class. The networks are tiny and see little training, so the pictures are rough; what
this shows is the whole way, and every setting of it can be changed. Started again, it continues where it was stopped.

    python examples/train_on_folder.py PICTURES --out runs/mine
"""

import argparse
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from genrefine import ClassPipeline, presets
from genrefine.media.sheets import image_grid
from genrefine.media.writing import save_png
from genrefine.sampling.budgets import fit_entropy_steps

SHARED = {
    "data.size": "32",
    "training.batch_size": "32",
    "training.warmup_steps": "20",
    "training.ema_decay": "0.98",
    "training.compile": "false",  # compiling takes longer than these networks train
    "training.preview_every": "400",
    "training.save_every": "400",
}
TOKENIZER = {
    "tokenizer.latent_dim": "4",
    "tokenizer.rounds": "3",
    "tokenizer.encoder_width": "16",
    "tokenizer.decoder_width": "24",
    "tokenizer.channel_multipliers": "1,1",  # stride 4: 8 x 8 positions
    "tokenizer.temporal_downsample": "False",
    "loss.rounds": "3",
    "training.learning_rate": "3e-3",
}
REFINER = {
    "refiner.width": "96",
    "refiner.depth": "4",
    "refiner.num_heads": "4",
    "refiner.bottleneck": "24",
    "sampler.num_inference_steps": "24",
    "training.learning_rate": "2e-3",
}


def main(arguments: list[str] | None = None) -> ClassPipeline:
    """Train, calibrate, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pictures", type=Path, help="folder with one subfolder per class")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--tokenizer-steps", default="400", metavar="N")
    parser.add_argument("--refiner-steps", default="800", metavar="N")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="other settings of the refiner's run"
    )
    chosen = parser.parse_args(arguments)

    data = {**SHARED, "data.source": str(chosen.pictures)}
    run = presets.get("small-tokenizer", {**data, **TOKENIZER, "training.num_steps": chosen.tokenizer_steps})
    tokenizer = run.run(chosen.out / "tokenizer")
    run = presets.get(
        "small-class",
        {
            **data,
            **REFINER,
            "tokenizer": str(tokenizer),
            "training.num_steps": chosen.refiner_steps,
            **dict(pair.split("=", 1) for pair in chosen.set),
        },
    )
    folder = run.run(chosen.out / "class")

    pipe = ClassPipeline.from_pretrained(folder)
    labels = [name for name in pipe.class_names for _ in range(4)]
    # What `genrefine calibrate` does: look at the entropy after five steps of a few runs, then fit the budget to it.
    entropies = next(islice(pipe.refine(labels, seed=0), 5, None)).entropy.tolist()
    most = pipe.sampler.config["num_inference_steps"]
    budget = fit_entropy_steps(entropies, warmup=5, max_steps=most, mean_steps=most * 2 / 3)
    pipe.register_modules(sampler=pipe.sampler.calibrated(budget))
    pipe.save_pretrained(folder)

    output = pipe(labels, seed=0, adaptive=True)
    print(f"{len(labels)} pictures, {sum(output.num_steps) / len(labels):.1f} steps each; the budget: {asdict(budget)}")
    save_png(image_grid(output.images, columns=8, scale=3), chosen.out / "samples.png", {"settings": output.settings})
    print(f"pictures: {chosen.out / 'samples.png'}    model: {folder}")
    return pipe


if __name__ == "__main__":
    main()
