"""Measure what rounding the matrices of a model does: to its codes, and to the embeddings of its text encoder.

    python scripts/measure_rounding.py emoji-class runs/emoji-text5/pipeline

Codes: share that equals those of the weights as given, 16 pictures of 16 steps, seeds 0 to 15, for 8, 9 and 10 bits and
for weights in bfloat16; from a changed code on a sample goes its own way.
Embeddings: cosine of every token of the model's `prompts.txt` before and after `pack_model.py --round`.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from pack_model import round_rows

import genrefine
from genrefine import TextPipeline
from genrefine.model_folder.find import find_model
from genrefine.pipelines import PROMPTS

CLASSES = ("flags/noto", "people-body/fluent", "objects/twemoji", "symbols/noto")
PROMPTED = ("a red heart", "fluent emoji of rocket", "noto emoji of dog", "flag: japan")


def codes_of(pipe: Any, prompted: bool) -> torch.Tensor:
    """Draw the pictures that are compared."""
    wanted = list(PROMPTED if prompted else CLASSES) * 4
    codes: torch.Tensor = pipe(wanted, seed=0, num_inference_steps=16, output_type="codes").codes
    return codes


def measure(name: str) -> None:
    """Print the shares of one model, and the cosines of its encoder."""
    pipe: Any = genrefine.load(name)
    pipe.set_progress_bar_config(disable=True)
    prompted = isinstance(pipe, TextPipeline)
    own, before = copy.deepcopy(pipe.refiner.state_dict()), codes_of(pipe, prompted)
    for bits in (8, 9, 10):
        pipe.refiner.load_state_dict(own)
        round_rows(pipe.refiner, lambda _, bits=bits: bits)
        print(f"{name}: {bits} bits, {(codes_of(pipe, prompted) == before).float().mean():.1%} of the codes")
    pipe.refiner.load_state_dict({key: value.bfloat16().float() for key, value in own.items()})
    print(f"{name}: bfloat16 weights, {(codes_of(pipe, prompted) == before).float().mean():.1%} of the codes")
    if prompted:
        prompts = (Path(find_model(name)) / PROMPTS).read_text(encoding="utf-8").splitlines()
        given = [tokens.clone() for tokens in pipe.prompt_encoder.encode(prompts)]
        round_rows(pipe.text_encoder, lambda part: 8 if "embeddings" in part else 10)
        fresh = TextPipeline(**pipe.components).prompt_encoder.encode(prompts)  # which remembers nothing
        cosines = torch.cosine_similarity(torch.cat(given), torch.cat(fresh), dim=-1)
        print(f"{name}: {len(cosines)} tokens, cosine least {cosines.min():.5f}, mean {cosines.mean():.5f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for model in sys.argv[1:]:
        measure(model)
