"""Pairs of command lines that differ in one option, for `test_options`.

Names of files and folders are those that `test_options.place` makes.
"""

import re

from text_evaluation_rows import (
    CLIP_ROWS,
    CLIPS,
    PROMPT_ROWS,
    PROMPTS,
    SUITE,
    TOKENIZER_FRAMES,
    suite_rows,
    with_shared,
)

GENERATE = "generate --model m --class-label 0 --seed 7 -o a.png"
PAINT = "generate dog --model t --seed 7 -o a.png"
EDIT = "edit a.png dog --model t --seed 7 --num-inference-steps 2 -o r.png"
EDIT_CLASS = "edit a.png --class-label 0 --model m --seed 7 --num-inference-steps 2 -o r.png"
MAPPED = f"{EDIT} --from heart"
ENCODE = "encode set/train --model m -o store"
FILMS = "encode films --frames 3 --model m -o store"
FILM_TABLE = "encode films.parquet --frames 3 --model m -o store"
CALIBRATE = "calibrate m --max-steps 9 --warmup 2 --num-images 8 --mean-steps 6"
CALIBRATE_TEXT = "calibrate t --max-steps 9 --warmup 2 --num-images 6 --mean-steps 6 --json did.json"
CAPTIONS = f"{CALIBRATE_TEXT} --captions cap --split test"
TOKENIZER = "evaluate tokenizer --model m --data set/test --pixels-only --rounds"
SEEN = TOKENIZER.replace("--pixels-only ", "")
SAMPLES = (
    "evaluate samples --model m --data set --split test --num-samples 8 --num-inference-steps 2 "
    "--extractor quarters.pt2 --extractor-size 32"
)
JUDGED = "--data set --split test --extractor quarters.pt2 --extractor-size 32"
PICTURES = f"evaluate pictures {JUDGED} ours"
PAIRS = f"evaluate pairs {JUDGED} ours theirs"
STATISTICS = f"evaluate statistics {JUDGED} -o made.npz"
CONVERT = "convert refiner.pth --in-context-start 1 -o new"
PIPELINE = "convert m/refiner --tokenizer m -o new"
TEXT = "convert t/refiner --tokenizer t -o new"
ALONE = "convert tokenizer.ckpt -o new"
TINY = "data.source=set data.size=16 data.heldout=test data.only= data.label_column=class_name training.num_steps=1 "
TINY += "training.batch_size=2 training.compile=false tokenizer.latent_dim=2 tokenizer.encoder_width=8 "
TINY += "tokenizer.decoder_width=8 tokenizer.channel_multipliers=1,1 tokenizer.temporal_downsample=False"
TRAIN = f"train emoji-tokenizer --out run --set {TINY}"


def sampling(base: str) -> dict[str, tuple[str, str]]:
    """Return rows of the sampling options."""
    free = base.replace(" --num-inference-steps 2", "")
    return {
        "--num-inference-steps": (
            base,
            re.sub(r" --num-inference-steps 2|$", " --num-inference-steps 3", base, count=1),
        ),
        "--preset": (base, base + " --preset fast"),
        "--no-adaptive": (free + " --adaptive", free + " --no-adaptive"),
        "--guidance-scale": (base, base + " --guidance-scale 9"),
        "--guidance-interval": (base, base + " --guidance-interval 0 0.9"),
        "--guidance-power": (base + " --guidance-scale 3", base + " --guidance-scale 3 --guidance-power 2"),
        "--temperature": (base, base + " --temperature 3"),
        "--schedule": (base, base + " --schedule cosine"),
        "--shift": (base, base + " --shift 3"),
        "--kernel": (base, base + " --kernel exact"),
        "--final-latents": (base, base + " --final-latents expected"),
        "--kernel-switch": (
            base.replace("steps 2", "steps 5") + " --kernel refresh-then-exact --kernel-switch 0.2",
            base.replace("steps 2", "steps 5") + " --kernel refresh-then-exact --kernel-switch 0.9",
        ),
    }


def pictures(base: str) -> dict[str, tuple[str, str]]:
    """Return rows of the options that choose pictures."""
    place = re.search(r"set(/\w+)?", base)
    assert place
    whole, table = (base.replace(place[0], other).replace(" --split test", "") for other in ("set", "table.parquet"))
    return {
        "--split": (whole + " --split train", whole + " --split test"),
        "--image-column": (table, table + " --image-column other"),
        "--label-column": (table, table + " --label-column style"),
        "--keep": (base, base + " --keep class_name=food/fluent"),
        "--drop": (base, base + " --drop class_name=food/fluent"),
        "--background": (base.replace(place[0], "clear"), base.replace(place[0], "clear") + " --background red"),
        "--skip-unreadable": (base.replace(place[0], "bad"), base.replace(place[0], "bad") + " --skip-unreadable"),
    }


def without(rows: dict[str, tuple[str, str]], option: str) -> dict[str, tuple[str, str]]:
    """Return the rows but that of one option."""
    return {name: row for name, row in rows.items() if name != option}


def everywhere(base: str, *options: str) -> dict[str, tuple[str, str]]:
    """Return rows of options that many verbs have."""
    rows = {
        "--model": (base, base.replace("--model m", "--model other")),
        "--device": (base, base + " --device nowhere"),
        "--dtype": (base, base + " --dtype bfloat16"),
        "--json": (base, base + " --json did.json"),
        "--batch-size": (base, base + " --batch-size 3"),
    }
    return {option: rows[option] for option in options}


def sets(base: str) -> dict[str, tuple[str, str]]:
    """Return rows of the options that all subjects of pictures at hand have."""
    return {
        "--size": (base, base + " --size 12"),
        "--seed": (base, base + " --seed 3"),
        "--data": (base, base.replace("--data set ", "--data set2 ")),
        "--extractor": (base, base.replace("quarters.pt2", "thirds.pt2")),
        "--extractor-size": (base, base.replace("--extractor-size 32", "--extractor-size 64")),
        **without(pictures(base), "--label-column"),
        **everywhere(base, "--json", "--batch-size"),
    }


ROWS: dict[str, dict[str, tuple[str, str]]] = {
    "generate": {
        "prompt": (PAINT, PAINT.replace("dog", "heart")),
        "--prompts": (PAINT, PAINT.replace("dog", "--prompts words.txt")),
        "--interactive": (PAINT, PAINT.replace("dog", "--interactive").replace("a.png", "made")),
        "--negative-prompt": (PAINT, PAINT + " --negative-prompt heart"),
        "--frames": (PAINT.replace(".png", ".webp") + " --frames 3", PAINT.replace(".png", ".webp") + " --frames 5"),
        "--first-frame": (
            PAINT.replace(".png", ".webp") + " --frames 3",
            PAINT.replace(".png", ".webp") + " --frames 3 --first-frame b.png",
        ),
        "--height": (PAINT, PAINT + " --height 8"),
        "--width": (PAINT, PAINT + " --width 8"),
        "--class-label": (GENERATE, GENERATE.replace("label 0", "label 1")),
        "--list-classes": (GENERATE, "generate --model m --list-classes"),
        "--output": (GENERATE, GENERATE.replace("a.png", "b.png")),
        "--num-images": (GENERATE, GENERATE + " --num-images 2"),
        "--seed": (GENERATE, GENERATE.replace("seed 7", "seed 8")),
        "--film": (GENERATE, GENERATE + " --film a.webp"),
        "--adapter": (GENERATE, GENERATE + " --adapter ad"),
        "--adapter-scale": (GENERATE + " --adapter ad", GENERATE + " --adapter ad --adapter-scale 0.5"),
        **sampling(GENERATE),
        **everywhere(GENERATE, "--model", "--device", "--dtype", "--json"),
        **everywhere(GENERATE + " --num-images 9", "--batch-size"),
    },
    "edit": {
        "picture": (EDIT, EDIT.replace("a.png", "b.png")),
        "prompt": (EDIT, EDIT.replace("dog", "heart")),
        "--class-label": (EDIT_CLASS, EDIT_CLASS.replace("label 0", "label 1")),
        "--negative-prompt": (EDIT, EDIT + " --negative-prompt heart"),
        "--mask": (EDIT, EDIT + " --mask mask.png"),
        "--from": (EDIT, MAPPED),
        "--mend": (EDIT, EDIT + " --mend"),
        "--prompts": (EDIT, EDIT.replace("dog", "--prompts words.txt")),
        "--interactive": (EDIT, EDIT.replace("dog", "--interactive").replace("r.png", "made")),
        "--vary": (EDIT + " --vary 0.5", EDIT + " --vary 0.25"),
        "--by": (EDIT + " --vary 0.5", EDIT + " --vary 0.5 --by random"),
        "--threshold": (MAPPED + " --threshold -9", MAPPED + " --threshold 9"),
        "--map": (MAPPED, MAPPED + " --map map.png"),
        "--strength": (EDIT, EDIT + " --strength 0.2"),
        "--outpaint": (EDIT, EDIT + " --outpaint 4 0 0 0"),
        "--frames": (EDIT.replace("r.png", "r.webp"), EDIT.replace("r.png", "r.webp") + " --frames 3"),
        "--no-blend": (EDIT + " --mask mask.png", EDIT + " --mask mask.png --no-blend"),
        "--output": (EDIT, EDIT.replace("r.png", "s.png")),
        "--num-images": (EDIT, EDIT + " --num-images 2"),
        "--seed": (EDIT, EDIT.replace("seed 7", "seed 8")),
        "--film": (EDIT, EDIT + " --film a.webp"),
        "--adapter": (EDIT, EDIT + " --adapter tad"),
        "--adapter-scale": (EDIT + " --adapter tad", EDIT + " --adapter tad --adapter-scale 0.5"),
        **sampling(EDIT),
        **everywhere(EDIT, "--device", "--dtype", "--json"),
        "--model": (EDIT, EDIT.replace("--model t", "--model t2")),
        **everywhere(EDIT + " --num-images 9", "--batch-size"),
    },
    "reconstruct": {
        "picture": ("reconstruct a.png --model m -o r.png", "reconstruct b.png --model m -o r.png"),
        "--output": ("reconstruct a.png --model m -o r.png", "reconstruct a.png --model m -o s.png"),
        "--background": (
            "reconstruct clear/test/food/fluent/0.png --model m -o r.png",
            "reconstruct clear/test/food/fluent/0.png --model m -o r.png --background red",
        ),
        **everywhere("reconstruct a.png --model m -o r.png", "--model", "--device", "--dtype", "--json"),
    },
    "encode": {
        "source": (ENCODE, ENCODE.replace("train", "test")),
        "--output": (ENCODE, ENCODE.replace("store", "other-store")),
        "--size": (ENCODE, ENCODE + " --size 8"),
        "--no-flips": (ENCODE, ENCODE + " --no-flips"),
        "--frames": (FILMS, FILMS.replace("--frames 3", "--frames 4")),
        "--frames-per-second": (FILMS, FILMS + " --frames-per-second 5"),
        "--segment": (FILMS, FILMS + " --segment middle"),
        "--short": (FILMS.replace("--frames 3", "--frames 9"), FILMS.replace("--frames 3", "--frames 9 --short hold")),
        "--video-column": (FILM_TABLE, FILM_TABLE + " --video-column other"),
        **pictures(ENCODE),
        **everywhere(ENCODE, "--model", "--device", "--batch-size"),
    },
    "train": {
        "preset": (TRAIN, TRAIN.replace("emoji-tokenizer", "emoji-class")),
        "--list": ("train", "train --list"),
        "--set": (TRAIN, TRAIN + " tokenizer.rounds=3"),
        "--out": (TRAIN, TRAIN.replace("--out run", "--out walk")),
    },
    "calibrate": {
        "model": (CALIBRATE, CALIBRATE.replace("calibrate m", "calibrate other")),
        "--mean-steps": (CALIBRATE, CALIBRATE + " --mean-steps 7"),
        "--min-steps": (CALIBRATE, CALIBRATE + " --min-steps 3"),
        "--max-steps": (CALIBRATE, CALIBRATE + " --max-steps 11"),
        "--warmup": (CALIBRATE, CALIBRATE + " --warmup 1"),
        "--num-images": (CALIBRATE, CALIBRATE + " --num-images 7"),
        "--seed": (CALIBRATE, CALIBRATE + " --seed 3"),
        "--prompts": (f"{CALIBRATE_TEXT} --prompts words.txt", f"{CALIBRATE_TEXT} --prompts names.txt"),
        "--captions": (f"{CALIBRATE_TEXT} --prompts words.txt", CAPTIONS),
        "--split": (CAPTIONS, CAPTIONS.replace("test", "nowhere")),
        "--caption-column": (CAPTIONS, CAPTIONS + " --caption-column title"),
        "--keep": (CAPTIONS, CAPTIONS + " --keep style=blue"),
        **everywhere(CALIBRATE, "--device", "--dtype", "--json", "--batch-size"),
    },
    "evaluate tokenizer": {
        "--rounds": (TOKENIZER, TOKENIZER + " 1"),
        "--size": (TOKENIZER, TOKENIZER + " --size 12"),
        "--pixels-only": (SEEN, TOKENIZER),
        "--perceptual": (SEEN, SEEN + " --perceptual vgg16.pt"),
        "--extractor": (SEEN, SEEN + " --extractor quarters.pt2"),
        "--extractor-size": (SEEN, SEEN + " --extractor-size 64"),
        "--frames": (TOKENIZER_FRAMES, TOKENIZER_FRAMES.replace("3", "5")),
        "--data": (TOKENIZER, TOKENIZER.replace("set/test", "set/train")),
        **without(pictures(TOKENIZER), "--label-column"),
        **everywhere(TOKENIZER, "--model", "--device", "--dtype", "--json", "--batch-size"),
    },
    "evaluate samples": {
        "--num-samples": (SAMPLES, SAMPLES + " --num-samples 9"),
        "--training-split": (SAMPLES, SAMPLES + " --training-split train"),
        "--extractor": (SAMPLES, SAMPLES.replace("quarters", "thirds")),
        "--extractor-size": (SAMPLES, SAMPLES + " --extractor-size 64"),
        "--samples": (SAMPLES, SAMPLES + " --samples kept"),
        "--reference": (SAMPLES, SAMPLES + " --reference quarters.npz"),
        "--seed": (SAMPLES, SAMPLES + " --seed 3"),
        "--data": (SAMPLES, SAMPLES.replace("--data set", "--data set2")),
        "--adapter": (SAMPLES, SAMPLES + " --adapter ad"),
        "--adapter-scale": (SAMPLES + " --adapter ad", SAMPLES + " --adapter ad --adapter-scale 0.5"),
        **sampling(SAMPLES),
        **pictures(SAMPLES),
        **everywhere(SAMPLES + " --json did.json", "--dtype"),
        **everywhere(SAMPLES, "--model", "--device", "--json", "--batch-size"),
    },
    "evaluate pictures": {
        "pictures": (PICTURES, PICTURES.replace("ours", "theirs")),
        "--reference": (PICTURES, PICTURES + " --reference quarters.npz"),
        **sets(PICTURES),
    },
    "evaluate pairs": {
        "first": (PAIRS, PAIRS.replace("ours", "theirs")),
        "second": (PAIRS, PAIRS.replace("theirs", "ours")),
        "--num-resamplings": (PAIRS, PAIRS + " --num-resamplings 20"),
        **sets(PAIRS),
    },
    "evaluate statistics": {
        "--output": (STATISTICS, STATISTICS.replace("made.npz", "other.npz")),
        **without(sets(STATISTICS), "--seed"),
    },
    "evaluate suite": suite_rows(sampling(SUITE)),
    "evaluate prompts": {**PROMPT_ROWS, **with_shared(PROMPTS, sampling(PROMPTS))},
    "evaluate clips": {**CLIP_ROWS, **with_shared(CLIPS, sampling(CLIPS))},
    "convert": {
        "source": (CONVERT, CONVERT.replace("refiner.pth", "tokenizer.ckpt")),
        "--out": (CONVERT, CONVERT.replace("new", "newer")),
        "--tokenizer": (PIPELINE, PIPELINE.replace("--tokenizer m", "--tokenizer other")),
        "--text-encoder": (TEXT, TEXT + " --text-encoder encoder"),
        "--class-names": (PIPELINE, PIPELINE + " --class-names names.txt"),
        "--attention": (CONVERT, CONVERT + " --attention joint"),
        "--task": (TEXT + " --text-encoder encoder", TEXT + " --text-encoder encoder --task video"),
        "--weights": (CONVERT, CONVERT + " --weights model"),
        "--code-classes": (CONVERT, CONVERT + " --code-classes 2"),
        "--in-context-start": (CONVERT, CONVERT.replace("start 1", "start 0")),
        "--rounds": (ALONE, ALONE + " --rounds 2"),
        "--layout": (ALONE, ALONE + " --layout index"),
        "--unbounded": (ALONE, ALONE + " --unbounded"),
        "--dtype": (CONVERT, CONVERT + " --dtype bfloat16"),
        "--json": (CONVERT, CONVERT + " --json did.json"),
    },
    "describe": {
        "model": ("describe m", "describe other"),
        "--json": ("describe m", "describe m --json did.json"),
    },
}
