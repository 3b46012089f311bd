"""The visual tokenizer: pixels <-> codes (arXiv 2604.13030, section 3.1).

    pixels --unshuffle 2x2--> Encoder --tanh--> latents --HBQ--> codes --HBQ--> quantized --Decoder--> pixels

Pixels are ``batch 3 frames height width`` in [-1, 1]; an image is a clip of one frame. With spatial stride ``S`` and
temporal stride ``s``, a clip of ``1 + s n`` frames has latents ``batch dim 1+n height/S width/S`` in (-1, 1).
`PUBLISHED` lists the configurations of the published weights.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.hbq import HBQ, Layout
from genrefine.nn.causal_conv import Cache, CausalConv3d, starts
from genrefine.tokenizer.autoencoder import Decoder, Encoder
from genrefine.tokenizer.tiling import require_tiling, tiled

PATCH = 2

PUBLISHED: dict[str, dict[str, Any]] = {
    "image": {"latent_dim": 16, "encoder_outputs": 2},  # 703 M parameters
    "joint": {"latent_dim": 64, "encoder_outputs": 2},  # 706 M parameters
}


class VisualTokenizer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Encode pictures and clips to binary codes and decode codes to pixels.

    Args:
        latent_dim: latent channels d.
        rounds: HBQ rounds M.
        layout: code layout, "bit" or "index".
        encoder_width, decoder_width: channels before the multipliers.
        channel_multipliers: one per stage; n multipliers make the spatial stride ``2^n``. The last two must be equal.
        num_blocks: residual blocks of an encoder stage; a decoder stage has one more.
        temporal_downsample: for each halving stage of the encoder, whether it halves time too; k of them make the
            temporal stride ``2^k``.
        temporal_kernel: frames that a convolution sees. With 1 only the convolutions that halve or double time see
            more than one frame: a third of the weights, and a fraction of the time for clips.
        encoder_outputs: 2 only for the published weights, whose encoder has a second output that nothing reads.
        bounded: send features through tanh, as every released tokenizer does. Without, those beyond (-1, 1) take the
            outermost code.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["ResidualBlock", "SpatialAttention"]  # type: ignore[assignment, misc]
    _group_offload_block_modules: ClassVar[list[str]] = ["encoder", "conv_quant", "conv_dequant", "decoder"]

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 16,
        rounds: int = 4,
        layout: Layout = "bit",
        encoder_width: int = 160,
        decoder_width: int = 256,
        channel_multipliers: tuple[int, ...] | list[int] = (1, 2, 4, 4),
        num_blocks: int = 2,
        temporal_downsample: tuple[bool, ...] | list[bool] = (False, True, True),
        temporal_kernel: int = 3,
        encoder_outputs: int = 1,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        multipliers, temporal = list(channel_multipliers), list(temporal_downsample)
        if len(temporal) != len(multipliers) - 1:
            raise GenrefineError(
                f"temporal_downsample must have one entry per halving stage, {len(multipliers) - 1}; "
                f"got {len(temporal)}"
            )
        sizes = (latent_dim, encoder_width, decoder_width, num_blocks, encoder_outputs, temporal_kernel, *multipliers)
        if min(sizes) < 1:
            raise GenrefineError("widths, blocks, multipliers, temporal_kernel and latent_dim must be at least 1")
        self.hbq = HBQ(rounds, layout)
        self.tiling: tuple[int, int] | None = None
        self.spatial_stride = PATCH * 2 ** len(temporal)
        self.temporal_stride = 2 ** sum(temporal)
        pixel_channels, moments = 3 * PATCH**2, encoder_outputs * latent_dim
        self.encoder = Encoder(
            pixel_channels, moments, encoder_width, multipliers, num_blocks, temporal_kernel, temporal
        )
        self.conv_quant = CausalConv3d(moments, moments, (1, 1, 1))
        self.conv_dequant = CausalConv3d(latent_dim, latent_dim, (1, 1, 1))
        self.decoder = Decoder(
            latent_dim, pixel_channels, decoder_width, multipliers, num_blocks + 1, temporal_kernel, temporal[::-1]
        )

    @property
    def latent_dim(self) -> int:
        """Latent channels d."""
        return int(self.config["latent_dim"])

    @property
    def code_channels(self) -> int:
        """Channels of the codes: d in the index layout, M * d in the bit layout."""
        return self.hbq.code_channels(self.latent_dim)

    @property
    def code_classes(self) -> int:
        """Classes of one code label."""
        return self.hbq.code_classes

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the latent grid (t, h, w) of a clip.

        Raises:
            GenrefineError: the size is impossible; the message names the nearest possible ones.
        """
        s = self.temporal_stride
        if frames < 1 or (frames - 1) % s:
            below = max(1, (frames - 1) // s * s + 1)
            raise GenrefineError(f"frames must be 1 + {s}k; got {frames}; nearest {_either(below, below + s, frames)}")
        for name, size in (("height", height), ("width", width)):
            if size < 1 or size % self.spatial_stride:
                below = max(1, size // self.spatial_stride) * self.spatial_stride
                near = _either(below, below + self.spatial_stride, size)
                raise GenrefineError(f"{name} must be a multiple of {self.spatial_stride}; got {size}; nearest {near}")
        return 1 + (frames - 1) // s, height // self.spatial_stride, width // self.spatial_stride

    def bits_per_pixel(self, frames: int, height: int, width: int) -> float:
        """Return the bits of the codes per pixel of a clip of this size."""
        t, h, w = self.grid(frames, height, width)
        return t * h * w * self.latent_dim * self.hbq.rounds / (frames * height * width)

    def latents(
        self, pixels: Float[Tensor, "batch 3 frames height width"], cache: Cache | None = None
    ) -> Float[Tensor, "batch dim t h w"]:
        """Return latents; with a cache, ``pixels`` continue the clip of the calls before."""
        num_frames = pixels.shape[2] + (not starts(cache, self))  # the first frame stands alone, and only once
        self.grid(num_frames, *pixels.shape[3:])
        x = rearrange(pixels, "b c t (h q) (w r) -> b (c r q) t h w", q=PATCH, r=PATCH)
        if x.shape[2] == 1:
            x = x.contiguous(memory_format=torch.channels_last_3d)  # 2-D convolutions are several times faster so
        features = self.conv_quant(self.encoder(x, cache))[:, : self.latent_dim]
        return torch.tanh(features) if self.config["bounded"] else features

    def encode(self, pixels: Float[Tensor, "batch 3 frames height width"]) -> Int[Tensor, "batch channels t h w"]:
        """Turn pixels into int32 codes."""
        with torch.no_grad():
            return self.hbq.encode(self.latents(pixels))

    def decode_latents(
        self, quantized: Float[Tensor, "batch dim t h w"], cache: Cache | None = None
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """Decode latents, quantized or not; with a cache, they continue the clip of the calls before."""
        if quantized.shape[1] != self.latent_dim:
            raise GenrefineError(f"latents must have {self.latent_dim} channels; got {quantized.shape[1]}")
        if quantized.shape[2] == 1:
            quantized = quantized.contiguous(memory_format=torch.channels_last_3d)
        x = self.decoder(self.conv_dequant(quantized), cache)
        return rearrange(x, "b (c r q) t h w -> b c t (h q) (w r)", q=PATCH, r=PATCH)

    def decode(self, codes: Int[Tensor, "batch channels t h w"]) -> Float[Tensor, "batch 3 frames height width"]:
        """Turn codes into pixels in about [-1, 1].

        Raises:
            GenrefineError: the codes have another number of channels or classes than this tokenizer's.
        """
        if codes.shape[1] != self.code_channels:
            raise GenrefineError(
                f"codes must have {self.code_channels} channels ({self.hbq.layout} layout); got {codes.shape[1]}"
            )
        return self.decode_whole(self.hbq.decode(codes))

    def decode_whole(self, latents: Float[Tensor, "batch dim t h w"]) -> Float[Tensor, "batch 3 frames height width"]:
        """Turn latents in [-1, 1] into pixels, tile by tile if that is enabled: `decode` with values for codes.

        Latents need not be values that codes have: the expected ones (`HBQ.expect`) are not.
        """
        with torch.no_grad():
            latents = latents.to(self.dtype)
            return tiled(self.decode_latents, latents, *self.tiling) if self.tiling else self.decode_latents(latents)

    def enable_tiling(self, tile: int = 32, overlap: int = 8) -> None:
        """Decode large pictures tile by tile, in memory that depends on the tile; see `tiling`. Encoding stays whole.

        Args:
            tile: side of a tile in latent positions.
            overlap: latent positions that neighbors share, 0 to tile - 1.

        Raises:
            GenrefineError: the overlap does not fit the tile.
        """
        require_tiling(tile, overlap)
        self.tiling = (tile, overlap)

    def disable_tiling(self) -> None:
        """Decode every picture as a whole."""
        self.tiling = None

    def forward(
        self, pixels: Float[Tensor, "batch 3 frames height width"], hbq: HBQ | None = None, return_dict: bool = True
    ) -> Float[Tensor, "batch 3 frames height width"] | tuple[Float[Tensor, "batch 3 frames height width"]]:
        """Reconstruct pixels through straight-through codes: the training path.

        Args:
            hbq: quantize with other rounds than the tokenizer's own.
            return_dict: False gives a tuple of one, as diffusers asks for.
        """
        made = self.decode_latents((hbq or self.hbq).straight_through(self.latents(pixels)))
        return made if return_dict else (made,)

    def encode_chunks(self, chunks: Iterable[Float[Tensor, "batch 3 _ _ _"]]) -> Iterator[Int[Tensor, "batch _ _ _ _"]]:
        """Encode a long clip chunk by chunk: ``1 + s k`` frames first, multiples of the temporal stride ``s`` after."""
        cache = Cache()
        for chunk in chunks:
            with torch.no_grad():
                yield self.hbq.encode(self.latents(chunk, cache))

    def decode_chunks(self, chunks: Iterable[Int[Tensor, "batch _ _ _ _"]]) -> Iterator[Float[Tensor, "batch 3 _ _ _"]]:
        """Decode a long clip chunk by chunk, with any number of latent frames in each."""
        cache = Cache()
        for chunk in chunks:
            with torch.no_grad():
                yield self.decode_latents(self.hbq.decode(chunk).to(self.dtype), cache)

    def with_rounds(self, rounds: int) -> "VisualTokenizer":
        """Return a tokenizer of the same weights and another rate: HBQ's rounds are nested (method section 1).

        In the bit layout the codes of fewer rounds are the first channels of those of more. How well a decoder does at
        rounds that it was not trained for is a matter of measurement: `genrefine evaluate tokenizer`.
        """
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        changed = VisualTokenizer(**{**config, "rounds": rounds})
        weights = {name: weight.clone() for name, weight in self.state_dict().items()}
        changed.load_state_dict(weights, assign=True)  # with their dtype and device
        return changed.train(self.training)

    def fingerprint(self) -> str:
        """Return a SHA-256 over everything that decides the codes of a picture: configuration and encoder weights."""
        digest = hashlib.sha256()
        shape = {k: v for k, v in self.config.items() if not k.startswith("_") and k != "decoder_width"}
        if shape["bounded"]:
            del shape["bounded"]  # younger than the first fingerprints, which must stay
        digest.update(json.dumps(shape, sort_keys=True, default=list).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if name.startswith(("encoder.", "conv_quant.")):
                digest.update(name.encode())
                digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()


def _either(below: int, above: int, wanted: int) -> str:
    return f"{below} or {above}" if wanted > below else str(below)
