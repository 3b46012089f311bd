"""HBQ: closed form against sequential rounds, values per second.

Both make the same int32 codes from the same float32 latents, which is checked. The sequential rounds are the definition
(arXiv 2604.13030, section 3.1): compare, keep the bit, move half as far.

The bit layout writes one int32 per bit, 512 MB for 16M values and 8 rounds, and most of its time is the operating
system's for fresh memory. With large pages, THP_MEM_ALLOC_ENABLE=1 in the environment, it is four times faster.

    python benchmarks/hbq_throughput.py
"""

from typing import Any

import torch

from genrefine.hbq import HBQ
from measuring import Report, in_turns, parser


def sequential(latents: torch.Tensor, rounds: int, layout: str) -> torch.Tensor:
    """Quantize by the definition, round by round."""
    quantized, bits = torch.zeros_like(latents), []
    for r in range(1, rounds + 1):
        bit = latents > quantized
        quantized = quantized + torch.where(bit, 2.0**-r, -(2.0**-r))
        bits.append(bit.int())
    if layout == "bit":
        return torch.cat(bits, dim=1)
    index = bits[0]
    for bit in bits[1:]:
        index = 2 * index + bit
    return index


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure and report."""
    options = parser(__doc__, repetitions=7)
    options.add_argument("--values", type=int, default=2**24, help="latent values, a multiple of 4096")
    options.add_argument("--rounds", type=int, default=8)
    chosen = options.parse_args(arguments)
    report = Report("hbq_throughput", chosen)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(chosen.values // 4096, 16, 1, 16, 16, generator=generator).tanh_()  # 256 x 256 pictures
    for layout in ("index", "bit"):
        hbq = HBQ(chosen.rounds, layout)
        if not torch.equal(hbq.encode(latents), sequential(latents, chosen.rounds, layout)):
            raise AssertionError(f"the closed form differs from the definition in the {layout} layout")
        seconds = in_turns(
            {
                "closed form": lambda hbq=hbq: hbq.encode(latents),
                "sequential": lambda layout=layout: sequential(latents, chosen.rounds, layout),
            },
            chosen,
        )
        for name, taken in seconds.items():
            rate = latents.numel() / taken.median / 1e6
            report.add(f"{layout}, {name}", rate, "M values/s", seconds=taken.median)
        report.add(f"{layout}, ratio", seconds["sequential"].median / seconds["closed form"].median, "times")
    return report.show(__doc__)


if __name__ == "__main__":
    main()
