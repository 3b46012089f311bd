"""The aspect ratios that the published text models know, as height over width (arXiv 2604.13030, released code)."""

ASPECT_RATIOS = (3.0, 2.5, 2.0, 16 / 9, 1.5, 4 / 3, 1.16, 1.0, 1 / 1.16, 0.75, 2 / 3, 9 / 16, 0.5, 0.4, 1 / 3)
"""Published heights over widths."""


def published_ratio(height: int, width: int) -> float:
    """Return the published aspect ratio nearest to height / width, cut to three decimals as it is published."""
    ratios = [int(ratio * 1000) / 1000 for ratio in ASPECT_RATIOS]
    return min(ratios, key=lambda ratio: abs(ratio - height / width))
