"""Published text networks with small random weights, and what they computed."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from genrefine.convert.text_refiner import text_refiner_from_weights
from genrefine.refiner.text_refiner import TextRefiner

GOLDENS = Path(__file__).parent / "goldens"


def load_golden(name: str) -> tuple[TextRefiner, dict[str, Tensor]]:
    """Return the network with the published weights, and the recorded tensors."""
    tensors = load_file(GOLDENS / f"text_refiner_{name}.safetensors")
    weights = {key.removeprefix("w."): tensor for key, tensor in tensors.items() if key.startswith("w.")}
    return text_refiner_from_weights(weights, name.split("_")[0]), tensors


def tiny_text_refiner(seed: int = 0, **changes: object) -> TextRefiner:
    """Return a refiner with an opinion of its own."""
    config = {"code_channels": 6, "code_classes": 2, "text_channels": 10, "width": 64, "depth": 2, "num_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        refiner = TextRefiner(**{**config, "mlp_width": 64, "num_kv_heads": 2, **changes}).eval()
        for parameter in refiner.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
    return refiner
