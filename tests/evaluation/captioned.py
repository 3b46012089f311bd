"""Tiny real pictures and clips with captions, concepts and styles."""

import torch
from torch import Tensor

from tiny_models import WORDS

CONCEPTS, STYLES = ["heart", "dog", "rocket", "flag", "pizza", "thumbs"], ["red", "blue"]


class Captioned:
    """Pictures or clips of every concept in both styles: color says the style, stripes say the concept."""

    def __init__(self, frames: int = 1, concepts: list[str] = CONCEPTS, seed: int = 0) -> None:
        assert set(concepts) <= set(WORDS)
        generator = torch.Generator().manual_seed(seed)
        self.shown = [(concept, style) for concept in concepts for style in STYLES]
        self.captions = [(f"{style} {concept}", concept) for concept, style in self.shown]
        self.pixels = torch.stack([_picture(concept, style, frames) for concept, style in self.shown])
        self.pixels += 0.05 * torch.randn(self.pixels.shape, generator=generator)
        self.pixels.clamp_(-1, 1)

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index], 0

    def column(self, name: str) -> list[str]:
        """Return concepts, styles, or as groups whether a concept is alive."""
        concepts, styles = ([pair[place] for pair in self.shown] for place in (0, 1))
        alive = ["alive" if concept in ("dog", "thumbs") else "thing" for concept in concepts]
        return {"concept": concepts, "style": styles, "group": alive}[name]


def _picture(concept: str, style: str, frames: int) -> Tensor:
    period = 2 + CONCEPTS.index(concept)
    stripes = ((torch.arange(16) // period) % 2).float() * 2 - 1
    picture = stripes.expand(3, frames, 16, 16).clone() * 0.9
    picture[STYLES.index(style) * 2] = 0.9
    for frame in range(frames):
        picture[1, frame, frame % 16] = -0.9
    return picture
