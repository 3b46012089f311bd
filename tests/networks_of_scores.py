"""Networks of the layout of those that published scores rest on, with weights drawn from a seed."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from genrefine.evaluation.inception import InceptionV3


def inception_weights(seed: int = 0) -> dict[str, Tensor]:
    """Return weights of FID's Inception-v3 that keep activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in InceptionV3().state_dict().items():
        if name.endswith(("running_var", "bn.weight")):
            drawn[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif tensor.ndim > 1:
            drawn[name] = torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5
        else:
            drawn[name] = 0.1 * torch.randn(tensor.shape, generator=generator)
    return drawn


class TinyInception(nn.Module):
    """Take what StyleGAN's `inception-2015-12-05.pt` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 8 * 8, 12)
        self.output = nn.Linear(12, 7)

    def forward(
        self, img: Tensor, use_fp16: bool = False, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        if img.dtype != torch.uint8:
            raise RuntimeError("expects bytes")
        x = torch.nn.functional.adaptive_avg_pool2d(img.float() / 127.5 - 1, [8, 8]).flatten(1)
        x = torch.relu(self.first(x))
        if return_features:
            return x
        logits = x @ self.output.weight.t()
        return logits if no_output_bias else logits + self.output.bias


class TinyI3D(nn.Module):
    """Take what `i3d_torchscript.pt` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 4 * 4 * 4, 6)

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if rescale:
            x = x * 2 / 255 - 1
        if x.dim() != 5 or not resize or not return_features:
            raise RuntimeError("expects clips, to be resized")
        return self.linear(torch.nn.functional.adaptive_avg_pool3d(x, [4, 4, 4]).flatten(1))


class TinyVgg(nn.Module):
    """Take what StyleGAN's `vgg16.pt` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 4 * 4, 5)

    def forward(self, img: Tensor, resize_images: bool = True, return_lpips: bool = False) -> Tensor:
        if resize_images or not return_lpips:
            raise RuntimeError("expects pictures as they are")
        return self.linear(torch.nn.functional.adaptive_avg_pool2d(img / 255, [4, 4]).flatten(1))


def save_script(network: nn.Module, path: Path, seed: int = 0) -> Path:
    """Write a TorchScript with weights drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch discourages new ones; the published files exist
        torch.jit.script(network.eval()).save(str(path))
    return path
