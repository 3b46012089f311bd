"""Rows of `option_rows` for the evaluation of text models; the sets are those of `captioned_sets`, the model is `t`."""

import re

COMMON = "--split test --num-prompts 8 --num-inference-steps 2 --extractor quarters.pt2 --extractor-size 32"
PROMPTS = f"evaluate prompts --model t --data cap {COMMON} --json did.json"
CLIPS = f"evaluate clips --model t --data movies --frames 5 {COMMON} --json did.json"


def with_shared(base: str, sampling: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return rows of the options that both subjects have."""
    found = re.search(r"--data (\w+)", base)
    assert found
    data = found[0]
    table = base.replace(data, f"{data}.parquet").replace(" --split test", "")
    kept = " ".join(f"concept={name}" for name in ("heart", "dog", "rocket", "flag"))
    return {
        "--num-prompts": (base, base.replace("--num-prompts 8", "--num-prompts 9")),
        "--caption-column": (base, base + " --caption-column title"),
        "--extractor": (base, base.replace("quarters", "thirds")),
        "--extractor-size": (base, base.replace("--extractor-size 32", "--extractor-size 64")),
        "--samples": (base, base + " --samples kept"),
        "--seed": (base, base + " --seed 3"),
        "--data": (base, base.replace(data, f"{data}2")),
        "--split": (base, base.replace("--split test", "--split train")),
        "--image-column": (table, table + " --image-column other"),
        "--keep": (base, base + f" --keep {kept}"),
        "--drop": (base, base + " --drop concept=heart"),
        "--background": (
            base.replace(data, f"{data}-clear"),
            base.replace(data, f"{data}-clear") + " --background red",
        ),
        "--skip-unreadable": (
            base.replace(data, f"{data}-bad"),
            base.replace(data, f"{data}-bad") + " --skip-unreadable",
        ),
        "--model": (base, base.replace("--model t", "--model t2")),
        "--adapter": (base, base + " --adapter tad"),
        "--adapter-scale": (base + " --adapter tad", base + " --adapter tad --adapter-scale 0"),
        "--device": (base, base + " --device nowhere"),
        "--dtype": (base, base + " --dtype bfloat16"),
        "--json": (base.replace(" --json did.json", ""), base),
        "--batch-size": (base, base + " --batch-size 3"),
        **sampling,
    }


PROMPT_ROWS = {
    "--gallery-splits": (PROMPTS, PROMPTS + " --gallery-splits train"),
    "--concept-column": (PROMPTS, PROMPTS + " --concept-column group"),
    "--style-column": (PROMPTS, PROMPTS + " --style-column hand"),
    "--group-column": (PROMPTS, PROMPTS + " --group-column group"),
}
CLIP_ROWS = {
    "--frames": (CLIPS, CLIPS.replace("--frames 5", "--frames 3")),
    "--clip-extractor": (CLIPS, CLIPS + " --clip-extractor i3d.pt"),
    "--first-frames": (CLIPS, CLIPS + " --first-frames"),
}
SUITE = "evaluate suite asked.jsonl --layout geneval --model t -o drawn --num-images 2 --num-inference-steps 2"
FILMS = "evaluate suite words.txt --layout vbench --model t -o drawn --num-images 1 --num-inference-steps 2 --frames 3"


def suite_rows(sampling: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return rows of the options of benchmarks."""
    return {
        "suite": (SUITE, SUITE.replace("asked", "asked2")),
        "--layout": (SUITE, SUITE.replace("asked.jsonl --layout geneval", "words.txt --layout vbench")),
        "--output": (SUITE, SUITE.replace("drawn", "elsewhere")),
        "--num-images": (SUITE, SUITE.replace("--num-images 2", "--num-images 1")),
        "--frames": (FILMS, FILMS.replace("--frames 3", "--frames 5")),
        "--model": (SUITE, SUITE.replace("--model t", "--model t2")),
        "--adapter": (SUITE, SUITE + " --adapter tad"),
        "--adapter-scale": (SUITE + " --adapter tad", SUITE + " --adapter tad --adapter-scale 0"),
        "--device": (SUITE, SUITE + " --device nowhere"),
        "--dtype": (SUITE, SUITE + " --dtype bfloat16"),
        "--batch-size": (SUITE, SUITE + " --batch-size 1"),
        **sampling,
    }


TOKENIZER_FRAMES = "evaluate tokenizer --model t --data movies/test --pixels-only --rounds --frames 3"
