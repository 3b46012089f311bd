"""Which weights of a visual tokenizer are trained: all, none, or those that only clips meet.

Time is halved and doubled by the convolutions of `Downsample` and `Upsample` (``time_conv``). The first frame stands
outside both, so with ``temporal_kernel=1`` a clip of one frame never meets them: training them alone leaves the codes,
or the reconstruction, of every picture as they are, to the bit. A tokenizer of stills that gains a temporal stride is
another matter: its shortcuts then average the first frame with an empty one, and its codes change at once.
"""

from typing import Literal

from torch import nn

from genrefine.errors import GenrefineError
from genrefine.tokenizer import VisualTokenizer

Trained = Literal["true", "false", "temporal"]


def freeze(tokenizer: VisualTokenizer, encoder: Trained, decoder: Trained) -> None:
    """Leave gradients on for the parts to train only, so that optimizers never see the others.

    Args:
        tokenizer: changed in place.
        encoder: what to train of the encoder: "true" all, "false" nothing, "temporal" the convolutions over time.
        decoder: the same for the decoder.

    Raises:
        GenrefineError: nothing is left to train, or "temporal" means nothing for this tokenizer.
    """
    halves: dict[str, tuple[Trained, list[nn.Module]]] = {
        "encoder": (encoder, [tokenizer.encoder, tokenizer.conv_quant]),
        "decoder": (decoder, [tokenizer.decoder, tokenizer.conv_dequant]),
    }
    for half, (trained, parts) in halves.items():
        over_time = [m.time_conv for part in parts for m in part.modules() if getattr(m, "time_conv", None) is not None]
        if trained == "temporal" and (not over_time or tokenizer.config["temporal_kernel"] != 1):
            raise GenrefineError(
                f"loss.train_{half}=temporal needs a tokenizer with temporal_kernel 1 and a temporal stride; "
                f"got temporal_kernel {tokenizer.config['temporal_kernel']} and stride {tokenizer.temporal_stride}"
            )
        for part in parts:
            part.requires_grad_(trained == "true")
        if trained == "temporal":
            for convolution in over_time:
                convolution.requires_grad_(True)
    if not any(p.requires_grad for p in tokenizer.parameters()):
        raise GenrefineError("nothing is left to train; set loss.train_encoder or loss.train_decoder to true")
