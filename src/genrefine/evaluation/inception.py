"""Inception-v3 as published Frechet distances have it, from weights that the user brings.

The network of 2015-12-05, whose TensorFlow graph every later program converted: 1,008 classes, average pooling that
leaves padding out, a maximum in the last block, batch normalization with epsilon .001. Weights come as torch-fidelity
and pytorch-fid publish them (`weights-inception-2015-12-05-6726825d.pth`, `pt_inception-2015-12-05-6726825d.pth`); no
package index has them, so nothing is downloaded here. torch-fidelity has the network too, but cannot be imported
without torchvision, which this package does without.

Pictures are rounded to bytes, resized to 299x299 as TensorFlow 1 did (bilinear, no antialiasing, corners not aligned,
source position = target position * scale), and scaled by (x - 128) / 128. Features are the 2,048 after the last
pooling; the inception score multiplies them by the weights of the classes without their bias, as the programs of
TensorFlow do.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from genrefine.errors import GenrefineError
from genrefine.files import one_line

NUM_FEATURES, NUM_CLASSES, SIDE = 2048, 1008, 299


class InceptionV3(nn.Module):
    """The network, random until weights are loaded; names of weights are those of torch-fidelity."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        for name, width, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
            self.add_module(f"Mixed_{name}", _Square(width, pooled))
        self.Mixed_6a = _ToSeventeen(288)
        for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            self.add_module(f"Mixed_{name}", _Cross(768, inner))
        self.Mixed_7a = _ToEight(768)
        self.Mixed_7b = _Fork(1280, takes_maximum=False)
        self.Mixed_7c = _Fork(2048, takes_maximum=True)
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        self.requires_grad_(False)
        self.eval()

    def forward(self, frames: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2048"]:
        """Return the features of bytes."""
        x = (resized_like_tensorflow(frames.float(), SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{name}")(x)
        return x.mean(dim=(2, 3))


def resized_like_tensorflow(
    pictures: Float[Tensor, "batch colors height width"], side: int
) -> Float[Tensor, "batch colors side side"]:
    """Resize by TensorFlow 1's `resize_bilinear` with its default corners: target pixel i reads from i * scale."""
    rows, columns = (_weights(size, side, pictures.device) for size in pictures.shape[2:])
    (top, bottom, down), (left, right, across) = rows, columns
    narrow = pictures[..., left] + (pictures[..., right] - pictures[..., left]) * across
    resized: Tensor = narrow[..., top, :] + (narrow[..., bottom, :] - narrow[..., top, :]) * down[:, None]
    return resized


def read_inception(path: str | Path) -> InceptionV3:
    """Return the network with the weights of a file: a state dict of torch-fidelity's names, pickled or safetensors.

    Raises:
        GenrefineError: no such file, or weights of another network.
    """
    expected = "the weights of FID's Inception-v3, as torch-fidelity and pytorch-fid publish them"
    try:
        if Path(path).suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise GenrefineError(f"'{path}' must hold {expected}; it cannot be read: {one_line(error)[:200]}") from None
    network = InceptionV3()
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if not isinstance(weights, dict) or not all(isinstance(one, Tensor) for one in weights.values()):
        raise GenrefineError(f"'{path}' must hold {expected}; got something other than named tensors")
    given = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    wrong = [name for name in own if name not in given or tuple(given[name].shape) != own[name]]
    more = [name for name in given if name not in own]
    if wrong or more:
        name = (wrong or more)[0]
        got = tuple(given[name].shape) if name in given else "nothing"
        raise GenrefineError(f"'{path}' must hold {expected}; '{name}' must be {own.get(name, 'absent')}; got {got}")
    network.load_state_dict(given)
    return network


class _Conv(nn.Module):
    """Convolve, normalize by frozen statistics, cut off below zero."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = _FrozenNorm(after)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _FrozenNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-3)  # type: ignore[arg-type]


class _Square(nn.Module):
    """Grid of 35."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(width, 64, 1)
        self.branch5x5_1 = _Conv(width, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(width, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(width, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_mean(x))], 1)


class _ToSeventeen(nn.Module):
    """From a grid of 35 to one of 17."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(width, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(width, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)], 1)


class _Cross(nn.Module):
    """Grid of 17, rows and columns in turns."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        row: dict[str, Any] = {"kernel": (1, 7), "padding": (0, 3)}
        column: dict[str, Any] = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = _Conv(width, 192, 1)
        self.branch7x7_1 = _Conv(width, inner, 1)
        self.branch7x7_2 = _Conv(inner, inner, **row)
        self.branch7x7_3 = _Conv(inner, 192, **column)
        self.branch7x7dbl_1 = _Conv(width, inner, 1)
        self.branch7x7dbl_2 = _Conv(inner, inner, **column)
        self.branch7x7dbl_3 = _Conv(inner, inner, **row)
        self.branch7x7dbl_4 = _Conv(inner, inner, **column)
        self.branch7x7dbl_5 = _Conv(inner, 192, **row)
        self.branch_pool = _Conv(width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_mean(x))], 1)


class _ToEight(nn.Module):
    """From a grid of 17 to one of 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(width, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(width, 192, 1)
        self.branch7x7x3_2 = _Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        parts = [self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)]
        return torch.cat(parts, 1)


class _Fork(nn.Module):
    """Grid of 8; the pooling of the last one takes maxima, an error of the first program that all scores have since."""

    def __init__(self, width: int, takes_maximum: bool) -> None:
        super().__init__()
        self.takes_maximum = takes_maximum
        self.branch1x1 = _Conv(width, 320, 1)
        self.branch3x3_1 = _Conv(width, 384, 1)
        self.branch3x3_2a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(width, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Conv(width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.takes_maximum else _mean(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(once), self.branch3x3_2b(once)]
        return torch.cat(
            [*parts, self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice), self.branch_pool(pooled)], 1
        )


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _weights(size: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return for every target pixel the two source pixels it lies between, and how far it is from the first."""
    place = torch.arange(side, device=device, dtype=torch.float32) * (size / side)
    first = place.floor().long().clamp(max=size - 1)
    return first, (first + 1).clamp(max=size - 1), place - first
