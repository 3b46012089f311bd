"""The refinement film: how a picture emerges, frame by frame.

Each frame shows one step of global refinement (arXiv 2604.13030, section 3.2) of one or more samples: on the left the
picture decoded from the network's prediction of all clean codes, on the right a map with one glass per position. A
glass holds all code channels of its position and is divided by what the step did to them:

* kept: showed the prediction before and after the step,
* filled: went from its noise to the prediction,
* erased: went from the prediction back to its noise,
* blank: stayed noise.

The four shares of a position add up to one. As the signal rises the glasses fill from the bottom; what was wrong is
erased on the way. Drawing needs pictures and shares only, so any sampler that counts them can be filmed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.media.sheets import INK, PAPER, caption_font, enlarge

MUTED = (122, 127, 138)
CARD = (255, 255, 255)
TRACK = (232, 230, 224)
# Bottom to top in every glass, and left to right in the legend.
SHARE_COLORS = {
    "kept": (59, 99, 158),
    "filled": (104, 182, 163),
    "erased": (226, 125, 96),
    "blank": (235, 233, 227),
}
_PICTURE_SIDE = 192
_MARGIN = 16


@dataclass(frozen=True)
class FilmPanel:
    """What one frame shows of one sample.

    Args:
        caption: what the sample is, such as its class and seed.
        picture: decoded from the prediction of this step.
        shares: kept, filled, erased and blank share of the channels at each position, adding up to one.
        step: steps taken so far, counted from 1.
        num_steps: steps this sample takes in all; None while an adaptive budget has not decided.
        signal: share of clean codes after the step, in [0, 1].
        entropy: mean entropy of the prediction over log(classes), in [0, 1].
    """

    caption: str
    picture: Image.Image
    shares: Float[Tensor, "4 h w"]
    step: int
    num_steps: int | None
    signal: float
    entropy: float


def draw_film_frame(panels: Sequence[FilmPanel], columns: int | None = None) -> Image.Image:
    """Draw one frame: a card for every sample and a legend below.

    Args:
        panels: the samples, all with pictures of one size.
        columns: cards per row; default is one for up to three samples, then two.

    Raises:
        GenrefineError: no samples.
    """
    if not panels:
        raise GenrefineError("a film frame needs at least one sample; got none")
    columns = min(columns or (1 if len(panels) <= 3 else 2), len(panels))
    cards = [_draw_card(panel) for panel in panels]
    width, height = cards[0].size
    rows = -(-len(cards) // columns)
    legend = _draw_legend()
    frame_width = max(columns * (width + _MARGIN), legend.width + _MARGIN) + _MARGIN
    frame = Image.new("RGB", (frame_width, rows * (height + _MARGIN) + _MARGIN + legend.height), PAPER)
    for index, card in enumerate(cards):
        row, column = divmod(index, columns)
        frame.paste(card, (_MARGIN + column * (width + _MARGIN), _MARGIN + row * (height + _MARGIN)))
    frame.paste(legend, ((frame_width - legend.width) // 2, frame.height - legend.height - _MARGIN // 4))
    return frame


def _draw_card(panel: FilmPanel) -> Image.Image:
    scale = max(1, _PICTURE_SIDE // max(panel.picture.size))
    picture = enlarge(panel.picture.convert("RGB"), scale)
    glasses = draw_shares(panel.shares, picture.size)
    width = picture.width + glasses.width + 3 * _MARGIN
    title, small = caption_font(14), caption_font(12)
    head, foot = 46, 34
    card = Image.new("RGB", (width, head + picture.height + foot), CARD)
    draw = ImageDraw.Draw(card)
    draw.text((_MARGIN, 14), panel.caption, INK, title)
    draw.text((width - _MARGIN, 14), f"step {panel.step} / {panel.num_steps or '?'}", INK, title, anchor="ra")
    # A thin track under the title line: how far the signal has come.
    track = (_MARGIN, head - 10, width - _MARGIN, head - 8)
    draw.rectangle(track, TRACK)
    reached = round((track[2] - track[0]) * min(max(panel.signal, 0.0), 1.0))
    if reached:
        draw.rectangle((*track[:2], track[0] + reached, track[3]), SHARE_COLORS["kept"])
    card.paste(picture, (_MARGIN, head))
    card.paste(glasses, (2 * _MARGIN + picture.width, head))
    below = head + picture.height + 10
    draw.text((_MARGIN, below), f"signal {panel.signal:.2f}  entropy {panel.entropy:.2f}", MUTED, small)
    totals = panel.shares.float().mean(dim=(1, 2)).tolist()
    summary = "  ".join(f"{name} {total:.0%}" for name, total in zip(SHARE_COLORS, totals, strict=True))
    draw.text((width - _MARGIN, below), summary, MUTED, small, anchor="ra")
    return card


def draw_shares(shares: Float[Tensor, "4 h w"], size: tuple[int, int]) -> Image.Image:
    """Draw one glass per position, filling from the bottom in the order of the colors.

    Args:
        shares: kept, filled, erased and blank share of each position.
        size: width and height to come near to, in whole pixels per position.
    """
    num_rows, num_columns = shares.shape[1:]
    # Whole pixels per position, at least one, as near to the picture's size as that allows.
    cell_width, cell_height = max(1, size[0] // num_columns), max(1, size[1] // num_rows)
    gap = 2 if min(cell_width, cell_height) >= 12 else (1 if min(cell_width, cell_height) >= 4 else 0)
    glasses = Image.new("RGB", (cell_width * num_columns, cell_height * num_rows), CARD)
    draw = ImageDraw.Draw(glasses)
    depth = cell_height - gap
    # Cumulative levels are rounded, not the shares, so that a glass is always exactly full.
    levels = (shares.float().cumsum(0) * depth).round().int().clamp(0, depth).tolist()
    for row in range(num_rows):
        for column in range(num_columns):
            left, bottom = column * cell_width, row * cell_height + depth
            below = 0
            for color, plane in zip(SHARE_COLORS.values(), levels, strict=True):
                level = plane[row][column]
                if level > below:
                    draw.rectangle((left, bottom - level, left + cell_width - gap - 1, bottom - below - 1), color)
                below = max(below, level)
    return glasses


def _draw_legend() -> Image.Image:
    font = caption_font(12)
    chip, pad = 11, 20
    widths = [chip + 6 + round(font.getlength(name)) + pad for name in SHARE_COLORS]
    legend = Image.new("RGB", (sum(widths) - pad, 24), PAPER)
    draw = ImageDraw.Draw(legend)
    left = 0
    for (name, color), width in zip(SHARE_COLORS.items(), widths, strict=True):
        draw.rectangle((left, 6, left + chip - 1, 6 + chip - 1), color, outline=None if name != "blank" else TRACK)
        draw.text((left + chip + 6, 12), name, INK, font, anchor="lm")
        left += width
    return legend
