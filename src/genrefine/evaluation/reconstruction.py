"""Reconstruction quality of a visual tokenizer, and at every number of HBQ rounds for the same weights.

HBQ's rounds are nested (arXiv 2604.13030, section 3.1), so one set of weights has several rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.evaluation.comparison import Record
from genrefine.evaluation.features import FeatureExtractor, collect_features
from genrefine.evaluation.frechet import frechet_distance
from genrefine.evaluation.perceptual import NamedPerceptual
from genrefine.evaluation.pictures import PictureSource, pixel_batches
from genrefine.evaluation.pixels import mean_squared_error, psnr, psnr_of_error, ssim
from genrefine.hbq import HBQ, to_bits
from genrefine.media.pixels import from_uint8, to_uint8
from genrefine.tokenizer import VisualTokenizer


@dataclass(frozen=True)
class Rate:
    """Reconstruction at one number of HBQ rounds.

    Args:
        rounds: HBQ rounds M.
        bits_per_pixel: bits of the codes per pixel.
        psnr: mean over pictures of their PSNR in decibels.
    """

    rounds: int
    bits_per_pixel: float
    psnr: float


@dataclass(frozen=True)
class TokenizerEvaluation(Record):
    """Reconstruction quality of a visual tokenizer.

    Args:
        num_pictures: pictures or clips.
        frames, height, width: their size.
        rounds, latent_dim, bits_per_pixel: the tokenizer's own rate.
        psnr: mean over pictures of their PSNR, in decibels.
        psnr_of_mean_error: PSNR of the mean squared error over all pictures; never more than `psnr`.
        ssim: mean structural similarity.
        psnr_unquantized: mean PSNR when latents reach the decoder without HBQ.
        psnr_of_frames: mean PSNR of the frames of each position in a clip.
        rates: mean PSNR at other numbers of rounds, same weights.
        bit_entropies: entropy in bits of every bit over all pictures and positions, 0 for one that never changes and 1
            for one that is as often 0 as 1: a row for each round, a number for each latent channel.
        perceptual: mean perceptual distance to the originals.
        frechet: Frechet distance of reconstructions to originals, rFID with FID's network.
        networks: what these two rest on: perceptual network, extractor; all three None where they were left out.
        fingerprint: of configuration and encoder weights.
    """

    num_pictures: int
    frames: int
    height: int
    width: int
    rounds: int
    latent_dim: int
    bits_per_pixel: float
    psnr: float
    psnr_of_mean_error: float
    ssim: float
    psnr_unquantized: float
    psnr_of_frames: tuple[float, ...]
    rates: tuple[Rate, ...]
    bit_entropies: tuple[tuple[float, ...], ...]
    perceptual: float | None
    frechet: float | None
    networks: tuple[str, str] | None
    fingerprint: str


@torch.no_grad()
def evaluate_tokenizer(
    tokenizer: VisualTokenizer,
    source: PictureSource,
    rounds: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8),
    batch_size: int = 32,
    progress: bool = True,
    extractor: FeatureExtractor | None = None,
    perceptual: NamedPerceptual | None = None,
) -> TokenizerEvaluation:
    """Reconstruct every picture of a source and say how near it comes.

    Args:
        tokenizer: the network.
        source: pictures of one size that the tokenizer can make, held out from its training.
        rounds: numbers of HBQ rounds at which to reconstruct with the same weights; none is allowed.
        batch_size: pictures per network call.
        progress: show a progress bar.
        extractor: turns frames into features, for the Frechet distance; with it goes the perceptual network.
        perceptual: says how different two batches of clips look.

    Raises:
        GenrefineError: an empty source, pictures of different sizes, or of a size the tokenizer cannot make.
    """
    if (extractor is None) != (perceptual is None):
        raise GenrefineError("the Frechet and the perceptual distance go together; give both networks or neither")
    own = tokenizer.hbq.rounds
    wanted = sorted({own, *rounds})
    decibels: dict[int | None, list[Tensor]] = {m: [] for m in (*wanted, None)}
    errors: list[Tensor] = []
    similarities: list[Tensor] = []
    frames = height = width = positions = 0
    ones = torch.zeros(own, tokenizer.latent_dim, dtype=torch.float64)
    looks: list[float] = []
    features: tuple[list[Tensor], list[Tensor]] = ([], [])
    for pixels in pixel_batches(source, batch_size, progress, "reconstructing"):
        frames, height, width = pixels.shape[2:]
        pixels = pixels.to(tokenizer.device)
        latents = tokenizer.latents(pixels.to(tokenizer.dtype))
        for m in decibels:
            quantized = latents if m is None else HBQ(m, tokenizer.hbq.layout).quantize(latents).to(latents.dtype)
            output = tokenizer.decode_latents(quantized)
            decibels[m].append(psnr(output, pixels).cpu())
            if m == own:
                bits = to_bits(HBQ(own, "index").encode(latents), own).unflatten(1, (own, -1)).cpu()
                ones += bits.double().sum(dim=(0, 3, 4, 5))
                positions += bits[:, 0, 0].numel()
                if extractor is not None and perceptual is not None:
                    seen, asked = from_uint8(to_uint8(output)), pixels.cpu()  # as a file of it would show it
                    looks += [float(perceptual(*pair)) for pair in zip(seen.split(1), asked.split(1), strict=True)]
                    for part, found in zip((seen, asked), features, strict=True):
                        found.append(collect_features(extractor, [part]))
                errors.append(mean_squared_error(output, pixels).cpu())
                similarities.append(ssim(output, pixels).cpu())
    means = {m: float(torch.cat(values).mean()) for m, values in decibels.items()}
    error = torch.cat(errors)
    per_round = tokenizer.bits_per_pixel(frames, height, width) / own
    return TokenizerEvaluation(
        num_pictures=len(source),
        frames=frames,
        height=height,
        width=width,
        rounds=own,
        latent_dim=tokenizer.latent_dim,
        bits_per_pixel=per_round * own,
        psnr=means[own],
        psnr_of_mean_error=psnr_of_error(float(error.mean())),
        ssim=float(torch.cat(similarities).mean()),
        psnr_unquantized=means[None],
        psnr_of_frames=tuple((10 * torch.log10(4 / error)).mean(dim=0).tolist()),
        rates=tuple(Rate(m, per_round * m, means[m]) for m in sorted(set(rounds))),
        bit_entropies=tuple(tuple(row) for row in _entropy(ones / positions).tolist()),
        perceptual=sum(looks) / len(looks) if looks else None,
        frechet=frechet_distance(*(torch.cat(one) for one in features)) if looks else None,
        networks=(perceptual.description, extractor.description) if perceptual and extractor else None,
        fingerprint=tokenizer.fingerprint(),
    )


def _entropy(p: Float64[Tensor, "rounds dim"]) -> Float64[Tensor, "rounds dim"]:
    """Return the entropy of a bit that is 1 with probability p, in bits."""
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / torch.log(torch.tensor(2.0, dtype=torch.float64))
