"""Train a visual tokenizer (arXiv 2604.13030, section 3.1 and appendix):

    loss = w_pixel L1(x, y) + w_perceptual P(x, y) + w_adversarial (-mean D(y)),       y = decode(quantize(encode(x)))
    discriminator: mean relu(1 - D(x)) + mean relu(1 + D(y))

The published weights are 1, 1 and 0.3. A weight of 0 leaves its term out altogether, network and cost included. Clips
may add ``w_motion L1(diff x, diff y)`` over the differences of neighboring frames, which is not published: a small
tokenizer with a temporal stride otherwise holds the frames of a latent still and spends its codes on detail. With
several ``rounds`` each update draws one of them, so that one set of weights serves several rates: HBQ's bits are
nested, and fewer rounds are a prefix of more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss
from torch.utils.data import Dataset

from genrefine.errors import GenrefineError
from genrefine.hbq import HBQ
from genrefine.media.pixels import to_pil
from genrefine.media.sheets import image_grid
from genrefine.tokenizer import VisualTokenizer
from genrefine.training.discriminator import PatchDiscriminator, adversarial_loss, discriminator_loss
from genrefine.training.loop import Update
from genrefine.training.mixture import Mixture
from genrefine.training.tokenizer_parts import Trained, freeze

Perceptual = Callable[[Tensor, Tensor], Tensor]


class TokenizerTask:
    """Reconstruct pixels through codes.

    Args:
        tokenizer: the network to train.
        dataset: items are pixels, float32 in [-1, 1], ``3 frames height width``.
        rounds: HBQ rounds to draw from; the tokenizer's own rounds alone are the published way.
        pixel_weight, perceptual_weight, adversarial_weight: weights of the three terms.
        motion_weight: weight of the differences of neighboring frames; pictures have none.
        perceptual: distance between two batches of pixels; needed where its weight is not 0.
        discriminator: judges pictures where the adversarial weight is not 0; by default the published one.
        train_encoder: False trains the decoder alone, so that codes and everything built on them stay valid;
            "temporal" trains the convolutions over time alone, see `tokenizer_parts`.
        train_decoder: the same for the decoder.
        flip: mirror every other picture, drawn at random.
        shown_pixels: pictures of the preview sheet, ``n 3 frames height width``.
    """

    def __init__(
        self,
        tokenizer: VisualTokenizer,
        dataset: Dataset[Any],
        shown_pixels: Float[Tensor, "n 3 frames height width"],
        rounds: Sequence[int],
        pixel_weight: float = 1.0,
        perceptual_weight: float = 1.0,
        adversarial_weight: float = 0.3,
        motion_weight: float = 0.0,
        perceptual: Perceptual | None = None,
        discriminator: PatchDiscriminator | None = None,
        train_encoder: bool | Trained = True,
        train_decoder: bool | Trained = True,
        flip: bool = True,
    ) -> None:
        self.dataset, self.shown_pixels, self.flip = dataset, shown_pixels, flip
        self.quantizers = [HBQ(r, tokenizer.hbq.layout) for r in rounds]
        self.pixel_weight, self.perceptual_weight = pixel_weight, perceptual_weight
        self.adversarial_weight, self.perceptual = adversarial_weight, perceptual
        self.motion_weight = motion_weight
        self.networks: dict[str, nn.Module] = {"tokenizer": tokenizer}
        self.shown: tuple[str, ...] = ("loss", "psnr")
        if adversarial_weight:
            self.networks["discriminator"] = discriminator or PatchDiscriminator()
        freeze(tokenizer, _words(train_encoder), _words(train_decoder))
        kinds = dataset.datasets if isinstance(dataset, Mixture) else [dataset]
        stills = any(len(kind) and kind[0].shape[1] == 1 for kind in kinds)  # type: ignore[arg-type]
        if stills and not {_words(train_encoder), _words(train_decoder)} & {"true"}:
            raise GenrefineError("stills train nothing over time; train on clips alone, or train the whole decoder")

    def updates(
        self,
        networks: Mapping[str, Callable[..., Any]],
        batch: Float[Tensor, "batch 3 t h w"],
        generator: torch.Generator,
    ) -> Iterator[Update]:
        """Yield the tokenizer's loss, then the discriminator's."""
        if self.flip:
            mirrored = torch.rand(len(batch), generator=generator).to(batch.device) < 0.5
            batch = torch.where(mirrored[:, None, None, None, None], batch.flip(-1), batch)
        choice = int(torch.randint(len(self.quantizers), (1,), generator=generator))
        output = networks["tokenizer"](batch, self.quantizers[choice]).float()
        pixel = l1_loss(output, batch)
        loss = self.pixel_weight * pixel
        mse = mse_loss(output.detach().clamp(-1, 1), batch)
        psnr = 10 * torch.log10(4 / mse)
        scalars: dict[str, Tensor | float] = {"pixel": pixel, "psnr": psnr}
        if batch.shape[2] > 1:
            scalars["psnr_clips"] = psnr
            if self.motion_weight:
                motion = l1_loss(output.diff(dim=2), batch.diff(dim=2))
                loss = loss + self.motion_weight * motion
                scalars["motion"] = motion
        if len(self.quantizers) > 1:
            scalars[f"psnr_{self.quantizers[choice].rounds}_rounds"] = psnr
        if self.perceptual is not None and self.perceptual_weight:
            perceptual = self.perceptual(output, batch)
            loss = loss + self.perceptual_weight * perceptual
            scalars["perceptual"] = perceptual
        if self.adversarial_weight:
            judge = self.networks["discriminator"].requires_grad_(False)
            adversarial = adversarial_loss(networks["discriminator"](output))
            judge.requires_grad_(True)
            loss = loss + self.adversarial_weight * adversarial
            scalars["adversarial"] = adversarial
        yield Update("tokenizer", loss, {"loss": loss, **scalars})
        if self.adversarial_weight:
            discriminator = networks["discriminator"]
            hinge = discriminator_loss(discriminator(batch), discriminator(output.detach()))
            yield Update("discriminator", hinge, {"discriminator": hinge})

    def compile(self, network: nn.Module) -> Callable[..., Any]:
        """Compile encoder and decoder apart: the rounds between them may change from update to update."""
        tokenizer = self.networks["tokenizer"]
        assert isinstance(tokenizer, VisualTokenizer)
        tokenizer.encoder.compile(dynamic=False)  # two shapes at most: stills and clips
        tokenizer.decoder.compile(dynamic=False)
        return network

    def preview(self, network: nn.Module) -> Image.Image:
        """Show originals above their reconstructions."""
        assert isinstance(network, VisualTokenizer)
        with torch.no_grad():
            output = network(self.shown_pixels.to(network.device), self.quantizers[-1]).cpu().float()
        pictures = [p for row in _rows(self.shown_pixels, output) for p in row]
        return image_grid(pictures, columns=min(16, len(output)))

    def save(self, network: nn.Module, folder: Path) -> None:
        """Write the tokenizer to ``FOLDER/tokenizer``."""
        assert isinstance(network, VisualTokenizer)
        network.save_pretrained(folder / "tokenizer")


def _rows(originals: Tensor, outputs: Tensor) -> list[list[Image.Image]]:
    rows = []
    for start in range(0, len(originals), 16):
        rows.append([to_pil(p[None, :, :1])[0] for p in originals[start : start + 16]])
        rows.append([to_pil(p[None, :, :1])[0] for p in outputs[start : start + 16]])
    return rows


def _words(trained: bool | Trained) -> Trained:
    return trained if isinstance(trained, str) else "true" if trained else "false"
