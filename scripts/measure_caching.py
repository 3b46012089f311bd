"""First-block caching of a text model: time, and how far its pictures are from those of the whole network.

    python scripts/measure_caching.py --model emoji

One row per threshold, and one for half the steps instead; the same prompts and seeds, all in one run.
"""

import argparse
import time
from typing import Any

import torch
from diffusers.hooks import FirstBlockCacheConfig

import genrefine
from genrefine.media.pixels import from_pil

PROMPTS = ["red heart", "dog face", "rocket", "pizza", "flag of japan", "thumbs up", "sun", "cat with tears of joy"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji", help="name or folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="refinements (default: %(default)s)")
    options = parser.parse_args()
    pipe = genrefine.load(options.model)
    pipe.set_progress_bar_config(disable=True)
    ran = [0]
    pipe.refiner.blocks[-1].mlp.register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))

    def make(steps: int) -> tuple[Any, float, int]:
        ran[0], start = 0, time.process_time()
        out = pipe(PROMPTS, seed=list(range(len(PROMPTS))), num_inference_steps=steps)
        return out, time.process_time() - start, ran[0]

    whole, seconds, calls = make(options.steps)
    print("| way | calls of the last block | CPU seconds, relative | equal codes | PSNR, median dB |")
    print("|---|---|---|---|---|")
    print(f"| whole, {options.steps} steps | {calls} | 1.00 | 1.0000 | |")
    for threshold in (0.1, 0.2, 0.3, 0.4, 0.6, None):
        if threshold is not None:
            pipe.refiner.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        out, took, calls = make(options.steps if threshold is not None else options.steps // 2)
        if threshold is not None:
            pipe.refiner.disable_cache()
        errors = [(from_pil(a) - from_pil(b)).square().mean() for a, b in zip(out.images, whole.images, strict=True)]
        decibels = torch.stack([20 * torch.log10(2 / error.clamp_min(1e-9).sqrt()) for error in errors]).median()
        name = f"threshold {threshold}" if threshold is not None else f"whole, {options.steps // 2} steps"
        equal = (out.codes == whole.codes).float().mean()
        print(f"| {name} | {calls} | {took / seconds:.2f} | {equal:.4f} | {decibels:.1f} |", flush=True)


if __name__ == "__main__":
    main()
