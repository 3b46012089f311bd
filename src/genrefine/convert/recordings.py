"""Draws recorded from the published programs, in the shapes that our sampler asks for.

The published programs draw a label k with probability p_k as argmax p_k / e_k and mix with uniform numbers u, as ours
does (`streams`), in shapes of their own (S steps, B samples, D code channels, K classes):

    class-to-image    noise B D H W,      exponentials S B D H W K,           uniforms S B D H W
    text              noise 1 D t h w,    exponentials S (t h w) D K,         uniforms S D t h w
"""

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from genrefine.sampling.random_source import RecordedSource


def class_draws(
    noise: Int[Tensor, "batch channels h w"],
    exponentials: Float[Tensor, "steps batch channels h w classes"],
    uniforms: Float[Tensor, "steps batch channels h w"],
) -> RecordedSource:
    """Return the draws of a class-to-image run; arguments as recorded."""
    return RecordedSource(noise.unsqueeze(2), exponentials.unsqueeze(3), uniforms.unsqueeze(3))


def text_draws(
    noise: Int[Tensor, "1 channels t h w"],
    exponentials: Float[Tensor, "steps tokens channels classes"],
    uniforms: Float[Tensor, "steps channels t h w"],
) -> RecordedSource:
    """Return the draws of a text-to-image or text-to-video run; arguments as recorded, predicted frames only."""
    _, _, _, height, width = noise.shape
    by_position = rearrange(exponentials, "s (t h w) d k -> s 1 d t h w k", h=height, w=width)
    return RecordedSource(noise, by_position, uniforms.unsqueeze(1))
