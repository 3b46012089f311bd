"""Processor seconds and memory of converting checkpoints of published sizes, with random weights.

    python benchmarks/convert_weights.py [--models NAME ...] [--work FOLDER]

Writes each checkpoint, converts it in a process of its own, and prints a line per model. Anonymous memory is what the
process holds besides maps of files; Python, torch and diffusers alone take about 350 MB of it. Linux only.
"""

import argparse
import gzip
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from genrefine.nn.embeddings import grid_sinusoid

MANIFESTS = Path(__file__).parents[1] / "tests/goldens/manifests"
MODELS = {
    "tokenizer image": ("tokenizers", "image", []),
    "class B": ("class_refiners", "B-index", []),
    "class L": ("class_refiners", "L-index", []),
    "text, 6 blocks of 2B": ("text_refiners", "t2i_GRN2b_bit", ["--attention", "joint"]),
}
TEXT_BLOCKS = r"block_chunks\.(0\.module\.[0-3]|1\.module\.[01])\."


def main() -> None:
    """Convert the chosen models."""
    parser = argparse.ArgumentParser(description="Measure conversions of random checkpoints.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--work", type=Path, help="folder with room for twice the largest checkpoint")
    options = parser.parse_args()
    print("| checkpoint | parameters | file | CPU seconds | peak resident | of it anonymous | largest weight |")
    print("|---|---|---|---|---|---|---|")
    for name in options.models:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            print(measured(name, Path(folder)), flush=True)


def measured(name: str, folder: Path) -> str:
    """Return the line of one model."""
    kind, manifest, words = MODELS[name]
    shapes = json.loads(gzip.decompress((MANIFESTS / f"{kind}.json.gz").read_bytes()))[manifest]["shapes"]
    if kind == "text_refiners":
        shapes = {key: shape for key, shape in shapes.items() if "block" not in key or re.match(TEXT_BLOCKS, key)}
    weights = {key: torch.rand(shape) for key, shape in shapes.items()}
    for key in (key for key in weights if key.endswith("pos_embed")):
        _, tokens, width = weights[key].shape
        weights[key] = grid_sinusoid(round(tokens**0.5), round(tokens**0.5), width)[None]
    content = {"class_refiners": {"model_ema1": weights}, "tokenizers": {"ema": weights}}.get(kind, weights)
    path = folder / "published.pth"
    torch.save(content, path)
    count = sum(tensor.numel() for tensor in weights.values())
    largest = max(tensor.nbytes for tensor in weights.values()) / 1e6
    del content, weights
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "genrefine", "convert", str(path), "--out", str(folder / "out"), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    resident, anonymous = [0.0], [0.0]
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        for field, values in (("VmRSS", resident), ("RssAnon", anonymous)):
            if found := re.search(rf"{field}:\s+(\d+)", status):
                values.append(int(found[1]) * 1024 / 1e6)
        time.sleep(0.005)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if process.returncode:
        raise SystemExit(f"the conversion of {name} failed")
    size = path.stat().st_size / 1e6
    shutil.rmtree(folder / "out")
    cells = [name, f"{count / 1e6:,.1f} M", f"{size:,.0f} MB", f"{seconds:.1f}", f"{max(resident):,.0f} MB"]
    return "| " + " | ".join([*cells, f"{max(anonymous):,.0f} MB", f"{largest:.0f} MB"]) + " |"


if __name__ == "__main__":
    main()
