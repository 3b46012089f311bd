"""Pack a trained pipeline to ship it: weights in half precision, sampling defaults as given, checksums.

    python scripts/pack_model.py runs/emoji-class/pipeline src/genrefine/zoo/emoji-class

With `--round` the matrices of refiner and text encoder are first rounded, row by row, to whole multiples of a power of
two, so that they take less room in a wheel: 9 bits a number in the refiner, 10 in the encoder and 8 in its embeddings.
What that does to pictures is in docs/measurements.md.

A tokenizer whose decoder was trained further may take the place of the one in the pipeline, if its encoder gives the
same codes. In the destination a README.md, licenses and prompts.txt stay; prompts.txt is that of the run if it has one.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import genrefine
from genrefine import GenrefineError, RefinementSampler, VisualTokenizer
from genrefine.pipelines import PROMPTS, load_component
from genrefine.registry import with_current_addresses


def main() -> None:
    """Pack what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path, help="pipeline folder of a run")
    parser.add_argument("destination", type=Path, help="folder of the packed model")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="visual tokenizer to put in")
    parser.add_argument("--sampler", default="{}", metavar="JSON", help='sampling defaults, e.g. {"temperature": 0.7}')
    parser.add_argument("--frames-per-second", type=float, metavar="F", help="speed of a text model's clips")
    parser.add_argument("--round", action="store_true", help="round the matrices, for a smaller wheel")
    options = parser.parse_args()
    try:
        sampling = json.loads(options.sampler)
        size = pack(
            options.pipeline,
            options.destination,
            options.tokenizer,
            sampling,
            options.frames_per_second,
            is_rounded=options.round,
        )
    except GenrefineError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{options.destination}: {size / 1e6:.1f} MB")


def pack(
    source: Path,
    destination: Path,
    tokenizer: Path | None,
    sampling: dict[str, Any],
    frames_per_second: float | None = None,
    is_rounded: bool = False,
) -> int:
    """Write the packed pipeline and return its bytes.

    Raises:
        GenrefineError: a folder that is no pipeline or tokenizer, or a tokenizer that makes other codes.
    """
    try:
        kind = with_current_addresses(json.loads((source / "model_index.json").read_text()))["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        raise GenrefineError(f"'{source}' is no pipeline folder; give one that training wrote") from error
    parts: dict[str, Any] = {}
    if tokenizer is not None:
        parts["visual_tokenizer"] = load_component(tokenizer, VisualTokenizer)
    pipeline = getattr(genrefine, kind).from_pretrained(source, **parts)
    if tokenizer is not None:
        before = load_component(source / "visual_tokenizer", VisualTokenizer)
        _require_same_encoder(before, parts["visual_tokenizer"])
    settings = {name: value for name, value in pipeline.sampler.config.items() if not name.startswith("_")}
    pipeline.register_modules(sampler=RefinementSampler(**{**settings, **sampling}))
    if frames_per_second is not None:
        pipeline.register_to_config(frames_per_second=frames_per_second)
    if is_rounded:
        round_rows(pipeline.refiner, lambda name: 9)
        if (encoder := getattr(pipeline, "text_encoder", None)) is not None:
            round_rows(encoder, lambda name: 8 if "embeddings" in name else 10)
    pipeline.to(torch.float16)
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as work:
        pipeline.save_pretrained(work)
        if (source / PROMPTS).is_file():
            shutil.copy(source / PROMPTS, work)
        for path in list(destination.iterdir()):
            if path.name not in ("README.md", PROMPTS) and not path.name.startswith("LICENSE"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in Path(work).iterdir():
            shutil.move(path, destination / path.name)
    files = [path for path in destination.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)
    return sum(path.stat().st_size for path in files)


@torch.no_grad()
def round_rows(network: torch.nn.Module, bits_of: Callable[[str], int]) -> None:
    """Round every matrix, row by row, to multiples of a power of two that need so many bits with their sign.

    Args:
        network: changed in place. A second time changes nothing.
        bits_of: bits of a weight by its name.
    """
    for name, weight in network.named_parameters():
        if weight.ndim == 2:
            largest = weight.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float16).tiny)
            step = torch.exp2(torch.ceil(torch.log2(largest / (2 ** (bits_of(name) - 1) - 1))))
            weight.copy_((weight / step).round() * step)


def _require_same_encoder(before: VisualTokenizer, after: VisualTokenizer) -> None:
    pixels = torch.rand(8, 3, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    share = (before.encode(pixels) == after.encode(pixels)).float().mean() if before.hbq == after.hbq else 0.0
    if share < 0.999:  # half precision moves a few latents across a threshold
        raise GenrefineError(f"the tokenizers must make the same codes; {share:.1%} agree; train the decoder alone")


if __name__ == "__main__":
    main()
