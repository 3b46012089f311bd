"""Pictures and small pieces of HTML that show what happens inside; nothing here knows of the page."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from torch import Tensor

from genrefine.media.film import draw_shares
from genrefine.pipelines.inspection import FATES, InspectedStep
from genrefine.studio.host import enlarged

SIDE = 320
"""Pixels of the longer side of what is shown."""
MARK = (226, 60, 60)
_COLD, _HOT = np.array([250, 249, 246.0]), np.array([38, 66, 120.0])


def show_picture(step: InspectedStep, position: tuple[int, int] | None = None, frame: int = 0) -> Image.Image:
    """Return the picture in mind, enlarged, with a position marked.

    Args:
        step: to show.
        position: row and column of the grid of codes.
        frame: latent frame; the picture shown is its first one.
    """
    frames, rows, columns = step.entropy.shape
    stride = (len(step.pictures) - 1) // (frames - 1) if frames > 1 else 1
    shown = enlarged(step.pictures[0 if frame == 0 else 1 + (frame - 1) * stride], SIDE)
    return _marked(shown, (rows, columns), position)


def show_fates(step: InspectedStep, position: tuple[int, int] | None = None, frame: int = 0) -> Image.Image:
    """Return what became of each position: a glass of kept, filled, erased and blank codes."""
    shares = step.shares[:, frame]
    drawn = draw_shares(shares, _size(shares.shape[1:]))
    return _marked(drawn, tuple(shares.shape[1:]), position)


def show_entropy(step: InspectedStep, position: tuple[int, int] | None = None, frame: int = 0) -> Image.Image:
    """Return the entropy of each position: light is sure, dark is open."""
    return _marked(heat(step.entropy[frame]), tuple(step.entropy.shape[1:]), position)


def heat(values: Float[Tensor, "rows columns"], highest: float = 1.0) -> Image.Image:
    """Return a map of numbers in [0, highest] as colors, one cell each."""
    part = (values.double().clamp(0, highest) / highest).numpy()[..., None]
    cells = Image.fromarray((_COLD + (_HOT - _COLD) * part).round().astype(np.uint8))
    return cells.resize(_size(values.shape), Image.Resampling.NEAREST)


def overlay(picture: Image.Image, values: Image.Image, mask: Image.Image) -> Image.Image:
    """Return a picture over which a map is laid: red where the mask is white, stronger where the map is lighter.

    Args:
        picture: of any size.
        values: grey, of that size.
        mask: white where codes are released.
    """
    weight = np.asarray(values.convert("L"), dtype=np.float64) / 255
    chosen = np.asarray(mask.convert("L")) >= 128
    strength = (np.where(chosen, 0.35 + 0.45 * weight, 0.12 * weight))[..., None]
    levels = np.asarray(picture.convert("RGB"), dtype=np.float64) * (1 - strength) + np.array(MARK) * strength
    return enlarged(Image.fromarray(levels.round().astype(np.uint8)), SIDE)


def position_at(point: Sequence[int], shown: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Return row and column of the position under a point.

    Args:
        point: x and y in pixels of what is shown.
        shown: its width and height.
        grid: rows and columns.
    """
    column = min(max(int(point[0]) * grid[1] // max(shown[0], 1), 0), grid[1] - 1)
    row = min(max(int(point[1]) * grid[0] // max(shown[1], 1), 0), grid[0] - 1)
    return row, column


def bits_table(step: InspectedStep, position: tuple[int, int], frame: int = 0) -> str:
    """Return the codes of a position as a table: a row per latent channel, a cell per round with P(bit = 1).

    A cell is darker the surer the network is; a bit that was drawn against it is framed.
    """
    beliefs: Float[Tensor, "dim rounds"] = step.bits(*position, frame)
    drawn: Int[Tensor, "dim rounds"] = step.drawn(*position, frame)
    values = step.hbq.decode(step.codes[None, :, frame : frame + 1, position[0] : position[0] + 1])[0, :, 0, 0]
    rounds = range(1, beliefs.shape[1] + 1)
    head = "".join(f"<th scope='col'>round {number}</th>" for number in rounds)
    rows = []
    for channel, (own, bits) in enumerate(zip(beliefs.tolist(), drawn.tolist(), strict=True)):
        cells = "".join(_cell(p, bit) for p, bit in zip(own, bits, strict=True))
        value = float(values[channel, position[1]])
        rows.append(f"<tr><th scope='row'>{channel}</th>{cells}<td>{value:+.3f}</td></tr>")
    where = f"row {position[0]}, column {position[1]}" + (f", latent frame {frame}" if frame else "")
    return (
        f"<table class='bits'><caption>Codes at {where}: the bit drawn, and P(1)</caption>"
        f"<thead><tr><th scope='col'>channel</th>{head}<th scope='col'>latent</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(p: float, bit: int) -> str:
    sure = abs(p - 0.5) * 2
    against = (p > 0.5) != bool(bit) and sure > 0.02
    kind = " class='against' title='drawn against the odds'" if against else ""
    return f"<td{kind} style='--sure:{sure:.2f}'><b>{bit}</b> <span>{p:.2f}</span></td>"


def step_line(step: InspectedStep) -> str:
    """Return one line about a step as HTML, with the legend of the shares."""
    shares = step.shares.mean(dim=(1, 2, 3)).tolist()
    chips = "".join(
        f"<span class='chip {name}'>{name} {share:.0%}</span>" for name, share in zip(FATES, shares, strict=True)
    )
    total = "?" if step.num_steps is None else str(step.num_steps)
    return (
        f"<div class='step-line'><span>step {step.index + 1} of {total}</span>"
        f"<span>signal {step.signal:.2f} to {step.next_signal:.2f}</span>"
        f"<span>entropy {step.mean_entropy:.3f}</span>{chips}</div>"
    )


def progress_line(done: int, total: int | None, words: str) -> str:
    """Return a bar of progress and what is going on, as HTML."""
    value = f" value='{done}' max='{total}'" if total else ""
    return f"<div class='progress' role='status'><progress{value}></progress><span>{html.escape(words)}</span></div>"


def quiet_line(words: str) -> str:
    """Return what was done, as HTML."""
    return f"<div class='progress' role='status'><span>{html.escape(words)}</span></div>"


def error_map(made: Image.Image, real: Image.Image, gain: float = 4.0) -> Image.Image:
    """Return how far two pictures are apart, per pixel and times a gain, white for no difference."""
    difference = np.abs(np.asarray(made, dtype=np.float64) - np.asarray(real, dtype=np.float64)).mean(2) / 255
    part = np.clip(difference * gain, 0, 1)[..., None]
    return Image.fromarray((_COLD + (_HOT - _COLD) * part).round().astype(np.uint8))


def _size(grid: Any) -> tuple[int, int]:
    rows, columns = grid
    cell = max(1, SIDE // max(rows, columns))
    return columns * cell, rows * cell


def _marked(shown: Image.Image, grid: Any, position: tuple[int, int] | None) -> Image.Image:
    if position is None:
        return shown
    shown, (row, column), (rows, columns) = shown.copy(), position, grid
    box = (
        column * shown.width // columns,
        row * shown.height // rows,
        (column + 1) * shown.width // columns - 1,
        (row + 1) * shown.height // rows - 1,
    )
    ImageDraw.Draw(shown).rectangle(box, outline=MARK, width=max(2, SIDE // 120))
    return shown
