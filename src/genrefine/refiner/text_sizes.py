"""Sizes of the text refiner: the published ones (arXiv 2604.13030; method section 5) and small ones of ours.

| size | depth | width | heads | MLP   | parameters |
|------|-------|-------|-------|-------|------------|
| XS   | 8     | 256   | 4     | 704   | 6.7 M      |
| S    | 12    | 384   | 6     | 1024  | 21.7 M     |
| 0.02B| 4     | 512   | 4     | 1792  | 18.2 M     |
| 2B   | 28    | 2304  | 18    | 8192  | 2.2 B      |
| 8B   | 36    | 4096  | 32    | 12288 | 7.9 B      |

"0.02B" is the toy of the released training script. Counts of the published sizes are for 64 latent channels, 4 rounds,
the bit layout and umT5-XXL (4096 channels), those of ours for 16 latent channels and MiniLM (384).
"""

from typing import Any

from genrefine.errors import GenrefineError

TEXT_REFINER_SIZES: dict[str, dict[str, int]] = {
    "XS": {"depth": 8, "width": 256, "num_heads": 4, "mlp_width": 704},
    "S": {"depth": 12, "width": 384, "num_heads": 6, "mlp_width": 1024},
    "0.02B": {"depth": 4, "width": 512, "num_heads": 4, "mlp_width": 1792},
    "2B": {"depth": 28, "width": 2304, "num_heads": 18, "mlp_width": 8192},
    "8B": {"depth": 36, "width": 4096, "num_heads": 32, "mlp_width": 12288},
}


def text_refiner_config(
    size: str,
    layout: str = "bit",
    *,
    dim: int = 64,
    rounds: int = 4,
    text_channels: int = 4096,
    attention: str = "joint",
) -> dict[str, Any]:
    """Return the arguments of `TextRefiner` for a size.

    Args:
        size: "XS", "S", "0.02B", "2B" or "8B".
        layout: "index" (one label of 2**rounds classes per latent channel) or "bit" (rounds * dim binary labels).
        dim: latent channels of the tokenizer.
        rounds: binary rounds of the quantizer.
        text_channels: channels of the text encoder's embeddings.
        attention: "joint" or "prefix".

    Raises:
        GenrefineError: for an unknown size or layout.
    """
    if size not in TEXT_REFINER_SIZES:
        raise GenrefineError(f"size must be one of {', '.join(TEXT_REFINER_SIZES)}; got {size!r}; choose one of these")
    if layout not in ("index", "bit"):
        raise GenrefineError(f"layout must be 'index' or 'bit'; got {layout!r}; choose one of the two")
    code_channels, code_classes = (dim, 2**rounds) if layout == "index" else (rounds * dim, 2)
    return {
        "code_channels": code_channels,
        "code_classes": code_classes,
        "text_channels": text_channels,
        "attention": attention,
        **TEXT_REFINER_SIZES[size],
    }
