"""Published sizes of the class-conditional refiner (arXiv 2604.13030, model table; method section 5).

| size | depth | width | heads | bottleneck | class tokens from block | parameters |
|------|-------|-------|-------|------------|-------------------------|------------|
| B    | 12    | 768   | 12    | 128        | 4                       | 131 M      |
| L    | 24    | 1024  | 16    | 128        | 8                       | 458 M      |
| H    | 32    | 1280  | 16    | 256        | 10                      | 952 M      |
| G    | 40    | 1664  | 16    | 256        | 10                      | 2.0 B      |

The counts are those of ImageNet at 256 x 256: 16 x 16 positions of 16 latent channels, 4 rounds, 1000 classes.
"""

from typing import Any

from genrefine.errors import GenrefineError

CLASS_REFINER_SIZES: dict[str, dict[str, int]] = {
    "B": {"depth": 12, "width": 768, "num_heads": 12, "bottleneck": 128, "in_context_start": 4},
    "L": {"depth": 24, "width": 1024, "num_heads": 16, "bottleneck": 128, "in_context_start": 8},
    "H": {"depth": 32, "width": 1280, "num_heads": 16, "bottleneck": 256, "in_context_start": 10},
    "G": {"depth": 40, "width": 1664, "num_heads": 16, "bottleneck": 256, "in_context_start": 10},
}


def class_refiner_config(
    size: str,
    layout: str,
    *,
    dim: int = 16,
    rounds: int = 4,
    grid: tuple[int, int] = (16, 16),
    num_classes: int = 1000,
) -> dict[str, Any]:
    """Return the arguments of `ClassRefiner` for a published size.

    Args:
        size: "B", "L", "H" or "G".
        layout: "index" (one label of 2**rounds classes per latent channel) or "bit" (rounds * dim binary labels).
        dim: latent channels of the tokenizer.
        rounds: binary rounds of the quantizer.
        grid: rows and columns of the latent map.
        num_classes: classes without the null class.

    Raises:
        GenrefineError: for an unknown size or layout.
    """
    if size not in CLASS_REFINER_SIZES:
        raise GenrefineError(f"size must be one of {', '.join(CLASS_REFINER_SIZES)}; got {size!r}; choose one of these")
    if layout not in ("index", "bit"):
        raise GenrefineError(f"layout must be 'index' or 'bit'; got {layout!r}; choose one of the two")
    code_channels, code_classes = (dim, 2**rounds) if layout == "index" else (rounds * dim, 2)
    return {
        "code_channels": code_channels,
        "code_classes": code_classes,
        "grid": grid,
        "num_classes": num_classes,
        "in_context_tokens": 32,
        **CLASS_REFINER_SIZES[size],
    }
