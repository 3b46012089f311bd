"""A patch discriminator and its hinge losses (arXiv 2604.13030, tokenizer training).

`D` maps a picture to a grid of scores, one per overlapping patch (PatchGAN, arXiv 1611.07004), positive for real. With
real pictures `x` and reconstructions `y`,

    loss of D          = (mean max(0, 1 - D(x)) + mean max(0, 1 + D(y))) / 2
    loss of tokenizer += weight * -mean D(y)

A clip is judged frame by frame. Where PatchGAN has batch normalization, this one has group normalization: batch
statistics differ between real and reconstructed batches, which tells the two apart without looking at one picture;
running statistics would change in the tokenizer's step, where no parameter of `D` does; and both would need
synchronizing between processes. A picture's scores here depend on that picture alone, and there are no buffers.
"""

import math

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genrefine.errors import GenrefineError


class PatchDiscriminator(nn.Module):
    """Score overlapping patches of every frame.

    Args:
        width: channels of the first layer; doubled by each further layer, up to eight times.
        num_layers: how many layers halve the resolution. One score sees a patch of 16, 34, 70, 142 pixels a side for
            1 to 4.

    Raises:
        GenrefineError: a width or number of layers below one.
    """

    def __init__(self, width: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        if width < 1 or num_layers < 1:
            raise GenrefineError(f"width and num_layers must be at least 1; got width {width}, num_layers {num_layers}")
        # Each of the two 4x4 layers of stride one takes one row away, and one must be left.
        self.smallest_side = 3 * 2**num_layers
        widths = [width * min(2**layer, 8) for layer in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer in range(1, num_layers + 1):
            layers += [
                nn.Conv2d(
                    widths[layer - 1], widths[layer], 4, stride=2 if layer < num_layers else 1, padding=1, bias=False
                ),
                nn.GroupNorm(math.gcd(32, widths[layer]), widths[layer]),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(
        self, pixels: Float[Tensor, "batch 3 frames height width"]
    ) -> Float[Tensor, "batch frames rows columns"]:
        """Return the scores of every frame's patches in float32, positive for real."""
        if min(pixels.shape[-2:]) < self.smallest_side:
            raise GenrefineError(
                f"the discriminator needs pictures of {self.smallest_side} pixels a side or more; got "
                f"{tuple(pixels.shape[-2:])}; use fewer num_layers"
            )
        scores = self.layers(rearrange(pixels, "batch rgb frames height width -> (batch frames) rgb height width"))
        by_frame: Tensor = rearrange(
            scores.float(), "(batch frames) 1 rows columns -> batch frames rows columns", batch=len(pixels)
        )
        return by_frame


def discriminator_loss(real: Float[Tensor, "*scores"], fake: Float[Tensor, "*scores"]) -> Float[Tensor, ""]:
    """Return the discriminator's hinge loss, 1 where it knows nothing and 0 where it is sure and right."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adversarial_loss(fake: Float[Tensor, "*scores"]) -> Float[Tensor, ""]:
    """Return the loss that the tokenizer minimizes to make its reconstructions pass for real."""
    return -fake.mean()
