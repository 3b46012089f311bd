"""Feature extractors that compare sets of pictures.

An extractor maps frames to one vector each. It is an `nn.Module` with `num_features`, so torchmetrics takes it as it
is: `FrechetInceptionDistance(feature=EfficientNetFeatures())`. Every extractor has a `description` that names network,
input size and scaling; a distance without it means nothing.

Frames come as floats in [-1, 1] or as bytes 0..255, are resized to the extractor's square input (bicubic, with
antialiasing where they shrink) and clipped to [-1, 1].
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from genrefine.errors import GenrefineError
from genrefine.evaluation.efficientnet import NUM_FEATURES, EfficientNetLite0
from genrefine.evaluation.program import Program

Frames = Float[Tensor, "batch 3 height width"] | UInt8[Tensor, "batch 3 height width"]


@runtime_checkable
class FeatureExtractor(Protocol):
    """Anything that turns frames into vectors and says what it is."""

    num_features: int

    @property
    def description(self) -> str:
        """Name the network, its input size and scaling in one line."""
        ...

    def __call__(self, frames: Frames) -> Float[Tensor, "batch features"]:
        """Return one float32 vector per frame."""
        ...


@runtime_checkable
class Classifier(FeatureExtractor, Protocol):
    """An extractor whose features decide classes, for the inception score."""

    def logits(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"] | None:
        """Return the logits of features; None where the network turns out to have no classes."""
        ...


class EfficientNetFeatures(nn.Module):
    """Describe frames by the pooled features of EfficientNet-Lite0.

    Args:
        input_size: side to which frames are resized, a multiple of 32. The network was trained at 224; 128
            takes a third of the time.

    Raises:
        GenrefineError: another size, or the `eval` extra is not installed.
    """

    def __init__(self, input_size: int = 128) -> None:
        super().__init__()
        if input_size < 32 or input_size % 32:
            raise GenrefineError(f"EfficientNet-Lite0 needs an input_size that is a multiple of 32; got {input_size}")
        self.input_size = input_size
        self.num_features = NUM_FEATURES
        self.network = EfficientNetLite0()

    @property
    def description(self) -> str:
        """Name the network, its input size and scaling in one line."""
        return (
            f"EfficientNet-Lite0 (ImageNet-1k), {NUM_FEATURES} pooled features, {self.input_size} px, (x - 127) / 128"
        )

    def forward(self, frames: Frames) -> Float[Tensor, "batch features"]:
        """Return the pooled features of every frame."""
        return cast(Tensor, self.network(_resized(frames, self.input_size)))

    def logits(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of ImageNet's thousand classes."""
        return cast(Tensor, cast(nn.Module, self.network.classifier)(features))


class ProgramFeatures(nn.Module):
    """Describe frames by a user's own network.

    Args:
        path: a `.pt2` file (see `genrefine.evaluation.program`) whose network returns `(batch, features)`.
        input_size: side to which frames are resized before the call.

    Raises:
        GenrefineError: the file is missing, holds no program, or returns something else.
    """

    def __init__(self, path: str | Path, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.program = Program(path)
        # Two frames: a program exported with a fixed batch of one fails here and not in the middle of a long run.
        self.num_features = self(torch.zeros(2, 3, input_size, input_size)).shape[1]

    @property
    def description(self) -> str:
        """Name the file, its number of features and its input size in one line."""
        return f"{self.program.path.name}, {self.num_features} features, {self.input_size} px"

    def forward(self, frames: Frames) -> Float[Tensor, "batch features"]:
        """Return the program's vector of every frame."""
        vectors = self.program(_resized(frames, self.input_size))
        if not (isinstance(vectors, Tensor) and vectors.ndim == 2 and len(vectors) == len(frames)):
            got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise GenrefineError(
                f"{self.program.path} must return features ({len(frames)}, n) for {len(frames)} frames; got {got}; "
                "export a network that returns one vector per frame"
            )
        return vectors.float()


@torch.no_grad()
def collect_features(
    extractor: FeatureExtractor, batches: Iterable[Float[Tensor, "_ 3 _ _ _"]], device: torch.device | str = "cpu"
) -> Float[Tensor, "pictures features"]:
    """Return the features of all frames of all clips, on the CPU, in order.

    Raises:
        GenrefineError: there are no pictures.
    """
    found = [
        extractor(
            rearrange(pixels, "clips rgb frames height width -> (clips frames) rgb height width").to(device)
        ).cpu()
        for pixels in batches
    ]
    if not found:
        raise GenrefineError("features need at least one picture; got none; is the data set empty?")
    return torch.cat(found)


def _resized(frames: Tensor, side: int) -> Tensor:
    floats = frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames.float()
    if floats.shape[-2:] == (side, side):
        return floats.clamp(-1, 1)
    return F.interpolate(floats, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
