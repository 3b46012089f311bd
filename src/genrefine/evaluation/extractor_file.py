"""Feature networks in files that the user brings, told apart by what is in them.

    a `.pt2` of `torch.export.save`   any network, see `program`
    a TorchScript                     what published scores are computed with: `inception-2015-12-05.pt` (StyleGAN, EDM
                                      and others) and, for clips, `i3d_torchscript.pt`
    a state dict of Inception-v3      torch-fidelity's and pytorch-fid's `.pth`, see `inception`

The first two are programs: open only files that you trust. A TorchScript is called as the programs that publish scores
call it: with bytes as they would be saved, `return_features=True`, resizing and scaling left to itself; clips as floats
0..255 with `rescale=True, resize=True`.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrefine.evaluation.features import FeatureExtractor, Frames, ProgramFeatures
from genrefine.evaluation.inception import NUM_FEATURES, SIDE, read_inception
from genrefine.evaluation.script import is_scripted, named, read_script, vectors


class InceptionFeatures(nn.Module):
    """Describe frames by FID's Inception-v3, see `inception`.

    Args:
        path: the file of weights.

    Raises:
        GenrefineError: the file does not hold them.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.network = read_inception(path)
        self.num_features = NUM_FEATURES
        self.description = (
            f"Inception-v3 of FID ({named(path)}), {NUM_FEATURES} features after the last pooling, bytes resized to "
            f"{SIDE} px by TensorFlow's bilinear rule, (x - 128) / 128"
        )

    def forward(self, frames: Frames) -> Float[Tensor, "batch features"]:
        """Return the features of every frame."""
        features: Tensor = self.network(as_bytes(frames))
        return features

    def logits(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of features as the inception score takes them: without bias."""
        return features @ self.network.fc.weight.T


class ScriptedFeatures(nn.Module):
    """Describe frames by a TorchScript such as StyleGAN's `inception-2015-12-05.pt`.

    Args:
        path: the file; it is called as `network(bytes, return_features=True)`.

    Raises:
        GenrefineError: the program refuses that, or returns no vectors.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.network = read_script(path)
        self.path = Path(path)
        self.num_features = self(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape[1]
        # The last layer maps features to classes; its weights are the only ones of that width.
        heads = [w for w in self.network.parameters() if w.ndim == 2 and w.shape[1] == self.num_features]
        self.class_weights = heads[0].detach() if len(heads) == 1 else None
        self.description = f"{named(path)}, {self.num_features} features, resized by the program itself"

    def forward(self, frames: Frames) -> Float[Tensor, "batch features"]:
        """Return the features of every frame."""
        return vectors(self.network, self.path, as_bytes(frames), return_features=True)

    def logits(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"] | None:
        """Return the logits of features as the inception score takes them, without bias; None without classes."""
        return None if self.class_weights is None else features @ self.class_weights.T


class ScriptedClipFeatures(nn.Module):
    """Describe whole clips by a TorchScript of I3D, for the Frechet video distance (arXiv 1812.01717).

    Args:
        path: the file; it is called as `network(clips, rescale=True, resize=True, return_features=True)` with floats
            0..255 "batch 3 frames height width".

    Raises:
        GenrefineError: the file is no TorchScript.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.network, self.path = read_script(path), Path(path)
        self.description = f"{named(path)}, clips of 0..255, rescaled and resized by the program itself"

    @torch.no_grad()
    def forward(self, pixels: Float[Tensor, "batch 3 frames height width"]) -> Float[Tensor, "batch features"]:
        """Return the features of clips in [-1, 1]."""
        levels = ((pixels.float() + 1) / 2 * 255).clamp(0, 255).round()
        return vectors(self.network, self.path, levels, rescale=True, resize=True, return_features=True)


def read_extractor(path: str | Path, input_size: int) -> FeatureExtractor:
    """Return the feature network of a file.

    Args:
        path: of one of the three kinds; see the module.
        input_size: side to which frames are resized for a `.pt2`; the others know theirs.

    Raises:
        GenrefineError: no such file, or none of the three.
    """
    file = Path(path)
    if file.suffix == ".pt2" or not file.is_file():
        return ProgramFeatures(file, input_size)
    return ScriptedFeatures(file) if is_scripted(file) else InceptionFeatures(file)


def as_bytes(frames: Frames) -> Tensor:
    """Return frames as the bytes that a file of them would hold."""
    if frames.dtype == torch.uint8:
        return frames
    return ((frames.float() + 1) / 2 * 255).clamp(0, 255).round().to(torch.uint8)
