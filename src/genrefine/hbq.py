"""Hierarchical binary quantization (HBQ), arXiv 2604.13030, section 3.1.

A latent value ``z`` in (-1, 1) is located by ``M`` rounds of binary search:

    q_0 = 0,   b_r = 1 if z > q_{r-1} else 0,   q_r = q_{r-1} + (2 b_r - 1) 2^-r,   r = 1..M

A tie goes down. The error obeys ``|z - q_M| <= 2^-M``: every round halves it. The rounds have a closed form,

    k = clip(ceil(z 2^(M-1)) + 2^(M-1) - 1, 0, 2^M - 1),      q_M = (2k + 1) / 2^M - 1,

and the bits of ``k``, most significant first, are ``b_1 .. b_M``. Scaling comes before adding, because
``ceil((z + 1) 2^(M-1))`` would lose tiny ``z`` to rounding. Everything here is arithmetic in float32 (float64 stays
float64), without state.

Layouts of the same code: "index" is one label ``k`` per latent channel; "bit" is ``M`` binary labels per channel,
round-major, so that code channel ``r * dim + c`` is round ``r`` (most significant first) of latent channel ``c``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from genrefine.errors import GenrefineError

Layout = Literal["index", "bit"]
MAX_ROUNDS = 16
CACHED_VALUES = 2**16


@dataclass(frozen=True)
class HBQ:
    """Quantize tanh-bounded latents to binary codes and back.

    Args:
        rounds: binary rounds M, 1 to 16.
        layout: "index" (one label per channel, 2^M classes) or "bit" (M binary labels per channel, 2 classes).
    """

    rounds: int
    layout: Layout = "bit"

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or not 1 <= self.rounds <= MAX_ROUNDS:
            raise GenrefineError(f"HBQ rounds must be a whole number from 1 to {MAX_ROUNDS}; got {self.rounds!r}")
        if self.layout not in get_args(Layout):
            raise GenrefineError(f"HBQ layout must be 'index' or 'bit'; got {self.layout!r}")

    @property
    def code_classes(self) -> int:
        """Classes of one code label."""
        return 2**self.rounds if self.layout == "index" else 2

    @property
    def bits_per_code(self) -> int:
        """Bits that one code label carries."""
        return self.rounds if self.layout == "index" else 1

    def code_channels(self, dim: int) -> int:
        """Return the code channels of ``dim`` latent channels."""
        return dim if self.layout == "index" else self.rounds * dim

    def latent_dim(self, code_channels: int) -> int:
        """Return the latent channels behind ``code_channels``."""
        if self.layout == "bit" and code_channels % self.rounds:
            raise GenrefineError(
                f"bit codes of {self.rounds} rounds need a multiple of {self.rounds} channels; got {code_channels}"
            )
        return code_channels if self.layout == "index" else code_channels // self.rounds

    def encode(self, latents: Float[Tensor, "batch dim *grid"]) -> Int[Tensor, "batch channels *grid"]:
        """Quantize latents to int32 codes; values at or beyond +-1 take the outermost code.

        Raises:
            GenrefineError: a latent is NaN or infinite.
        """
        if latents.numel() and not torch.compiler.is_compiling():
            low, high = torch.aminmax(latents.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise GenrefineError(
                    "latents must be finite; got NaN or infinity; check the encoder's input and weights"
                )
        if self.layout == "index":
            return _index(latents.detach(), self.rounds)
        batch, dim, *grid = latents.shape
        bits = torch.empty(batch, self.rounds * dim, *grid, dtype=torch.int32, device=latents.device)
        # In parts that stay in the cache: the only large thing that is written is the result.
        part = max(1, CACHED_VALUES * batch // max(1, latents.numel()))
        for values, out in zip(latents.detach().split(part), bits.split(part), strict=True):
            out.copy_(to_bits(_index(values, self.rounds), self.rounds))
        return bits

    def decode(self, codes: Int[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Return the float32 values the codes stand for, ``q_M = sum_r (2 b_r - 1) 2^-r``."""
        if codes.numel() and not torch.compiler.is_compiling():
            low, high = torch.aminmax(codes)
            if low < 0 or high >= self.code_classes:
                raise GenrefineError(
                    f"codes must lie in 0..{self.code_classes - 1}; got {int(low)}..{int(high)}; "
                    "check that layout and rounds match"
                )
        self.latent_dim(codes.shape[1])
        index = to_index(codes, self.rounds) if self.layout == "bit" else codes
        return (2 * index + 1).float().mul_(2.0**-self.rounds).sub_(1)

    def expect(self, probabilities: Float[Tensor, "batch channels *grid classes"]) -> Float[Tensor, "batch dim *grid"]:
        """Return the expected values of codes that are not certain, float32.

        By the linearity of `decode`: ``sum_r (2 p_r - 1) 2^-r`` with ``p_r = P(b_r = 1)`` for bits, whether they
        depend on each other or not, and ``sum_k p_k v_k`` with the value ``v_k`` of label ``k`` for an index.

        Args:
            probabilities: of the classes of each code, classes last.
        """
        if probabilities.shape[-1] != self.code_classes:
            raise GenrefineError(
                f"probabilities must be of {self.code_classes} classes, last; got {probabilities.shape[-1]}; "
                "check that layout and rounds match"
            )
        self.latent_dim(probabilities.shape[1])
        if self.layout == "index":
            values = torch.arange(self.code_classes, dtype=torch.float64, device=probabilities.device)
            values = (2 * values + 1) * 2.0**-self.rounds - 1
            return (probabilities.double() * values).sum(-1).float()
        ones = probabilities[..., 1].float().chunk(self.rounds, dim=1)
        expected = torch.zeros_like(ones[0])
        for number, one in enumerate(ones, start=1):
            expected += (2 * one - 1) * 2.0**-number
        return expected

    def quantize(self, latents: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Return ``q_M`` of the latents, without gradient; the shape and, but for half precision, the dtype stay."""
        return _index(latents.detach(), self.rounds).mul_(2).add_(1).float().mul_(2.0**-self.rounds).sub_(1)

    def straight_through(self, latents: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch dim *grid"]:
        """Return ``z + stop_gradient(q - z)``: the quantized value forwards, the identity backwards."""
        return latents + (self.quantize(latents).to(latents.dtype) - latents).detach()


def _index(latents: Tensor, rounds: int) -> Tensor:
    """Apply the closed form; int32 in 0..2^M - 1."""
    half = 2 ** (rounds - 1)
    wide = latents if latents.dtype == torch.float64 else latents.float()
    return (wide * half).ceil_().add_(half - 1).clamp_(0, 2 * half - 1).to(torch.int32)


def to_bits(index: Int[Tensor, "batch dim *grid"], rounds: int) -> Int[Tensor, "batch channels *grid"]:
    """Spread index codes to bit codes, round-major, most significant round first."""
    shifts = torch.arange(rounds - 1, -1, -1, dtype=index.dtype, device=index.device)
    # One broadcast shift touches the large result twice; a loop over rounds with `cat` takes three times as long.
    shifted = index.unsqueeze(1) >> shifts.view(-1, *[1] * (index.ndim - 1))
    bits: Tensor = shifted.bitwise_and_(1).flatten(1, 2)
    return bits


def to_index(bits: Int[Tensor, "batch channels *grid"], rounds: int) -> Int[Tensor, "batch dim *grid"]:
    """Gather bit codes to index codes; the inverse of `to_bits`."""
    planes = bits.chunk(rounds, dim=1)
    index = planes[0].clone()
    for plane in planes[1:]:
        index = (index << 1) | plane
    return index


def pack_bits(codes: Int[Tensor, "batch *shape"], bits_per_code: int) -> UInt8[Tensor, "batch num_bytes"]:
    """Pack every sample's codes into bytes, most significant bit first; the last byte is padded with zeros.

    Args:
        codes: labels in ``0 .. 2^bits_per_code - 1``.
        bits_per_code: 1 for the bit layout, M for the index layout (`HBQ.bits_per_code`).
    """
    _check_bits_per_code(bits_per_code)
    flat = codes.reshape(codes.shape[0], -1)
    if flat.numel():
        low, high = torch.aminmax(flat)
        if low < 0 or high >= 2**bits_per_code:
            raise GenrefineError(f"codes must fit {bits_per_code} bits; got {int(low)}..{int(high)}")
    shifts = torch.arange(bits_per_code - 1, -1, -1, device=codes.device, dtype=flat.dtype)
    bits = ((flat.unsqueeze(-1) >> shifts) & 1).flatten(1).to(torch.uint8)
    padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8))
    weights = (1 << torch.arange(7, -1, -1, device=codes.device)).to(torch.uint8)
    return (padded.unflatten(1, (-1, 8)) * weights).sum(-1, dtype=torch.uint8)


def unpack_bits(
    packed: UInt8[Tensor, "batch num_bytes"], shape: Sequence[int], bits_per_code: int
) -> Int[Tensor, "batch *shape"]:
    """Return the int32 codes of one sample ``shape`` that `pack_bits` packed.

    Raises:
        GenrefineError: the number of bytes does not belong to this shape.
    """
    _check_bits_per_code(bits_per_code)
    num_codes = prod(shape)
    expected = -(-num_codes * bits_per_code // 8)
    if packed.shape[1] != expected:
        raise GenrefineError(
            f"codes of shape {tuple(shape)} at {bits_per_code} bits take {expected} bytes; got {packed.shape[1]}"
        )
    places = torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)
    bits = ((packed.unsqueeze(-1) >> places) & 1).flatten(1)[:, : num_codes * bits_per_code].to(torch.int32)
    if bits_per_code > 1:
        weights = 1 << torch.arange(bits_per_code - 1, -1, -1, device=packed.device, dtype=torch.int32)
        bits = (bits.unflatten(1, (num_codes, bits_per_code)) * weights).sum(-1, dtype=torch.int32)
    return bits.reshape(packed.shape[0], *shape)


def _check_bits_per_code(bits_per_code: int) -> None:
    if not 1 <= bits_per_code <= MAX_ROUNDS:
        raise GenrefineError(f"bits_per_code must be 1 to {MAX_ROUNDS}; got {bits_per_code}")
