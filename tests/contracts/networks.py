"""The networks that a contract holds for, and one input of each."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genrefine import ClassRefiner, TextRefiner, VisualTokenizer
from genrefine.conditioning.class_condition import ClassCondition
from genrefine.conditioning.text_condition import TextCondition
from tiny_models import tiny_clip_tokenizer, tiny_refiner, tiny_text_refiner

NETWORKS: dict[str, tuple[Callable[[], Any], type[Any]]] = {
    "class": (tiny_refiner, ClassRefiner),
    "text, joint": (tiny_text_refiner, TextRefiner),
    "text, prefix": (lambda: tiny_text_refiner(attention="prefix"), TextRefiner),
    "tokenizer": (tiny_clip_tokenizer, VisualTokenizer),
}
REFINERS = [name for name in NETWORKS if name != "tokenizer"]


def arguments(kind: str) -> tuple[Tensor, Tensor, Any]:
    """Return codes, signal and condition of three samples for a refiner."""
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(2, (3, 4, 1, 4, 4), generator=draw)
    signal = torch.tensor([0.1, 0.5, 0.9])
    if kind == "class":
        return codes, signal, ClassCondition.of([0, 1, 6], 6)
    prompts = [torch.randn(length, 24, generator=draw) for length in (5, 2, 5)]
    return codes, signal, TextCondition.of(prompts, torch.randn(2, 24, generator=draw))


@torch.no_grad()
def answer(kind: str, network: nn.Module) -> Tensor:
    """Return what a network says, all that it can do in one vector."""
    if kind != "tokenizer":
        return network(*arguments(kind))
    pixels = torch.linspace(-1, 1, 3 * 3 * 16 * 16).view(1, 3, 3, 16, 16)
    return torch.cat([network(pixels).flatten(), network.decode(network.encode(pixels)).flatten()])
