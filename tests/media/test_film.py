"""Laws of the refinement film."""

import numpy as np
import pytest
import torch
from PIL import Image

from genrefine.errors import GenrefineError
from genrefine.media.film import SHARE_COLORS, FilmPanel, draw_film_frame


def panel(shares: torch.Tensor, **changes: object) -> FilmPanel:
    settings = {"caption": "class seed 7", "step": 3, "num_steps": 8, "signal": 0.375, "entropy": 0.5}
    return FilmPanel(picture=Image.new("RGB", (64, 64), (1, 2, 3)), shares=shares, **{**settings, **changes})


def count_color(frame: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(frame) == np.uint8(color)).all(-1).sum())


def test_the_map_gives_every_share_its_area():
    shares = torch.tensor([0.5, 0.25, 0.125, 0.125])[:, None, None].expand(4, 8, 8).clone()
    frame = draw_film_frame([panel(shares, signal=0.0)])
    areas = np.array([count_color(frame, color) for color in SHARE_COLORS.values()], float)
    # 8 x 8 glasses of 22 x 22 pixels and one legend chip of at most 11 x 11 each.
    total = 64 * 22 * 22
    assert areas / total == pytest.approx(shares[:, 0, 0].numpy(), abs=0.06)


@pytest.mark.parametrize("index", range(4))
def test_a_pure_step_shows_one_color_only(index):
    shares = torch.zeros(4, 4, 4)
    shares[index] = 1
    frame = draw_film_frame([panel(shares, signal=0.0)])
    for number, color in enumerate(SHARE_COLORS.values()):
        assert (count_color(frame, color) > 200) == (number == index)


def test_the_picture_is_enlarged_unsmoothed():
    assert count_color(draw_film_frame([panel(torch.ones(4, 8, 8) / 4)]), (1, 2, 3)) == 192 * 192


@pytest.mark.parametrize("changes", [{"caption": "other"}, {"step": 4}, {"signal": 0.9}, {"entropy": 0.9}])
def test_every_fact_of_the_step_is_drawn(changes):
    shares = torch.ones(4, 8, 8) / 4
    assert draw_film_frame([panel(shares)]).tobytes() != draw_film_frame([panel(shares, **changes)]).tobytes()


def test_frames_of_one_film_have_one_size_whatever_the_numbers():
    shares = torch.ones(4, 8, 8) / 4
    progress = [(1, 9), (99, 100)]
    sizes = {draw_film_frame([panel(shares, step=s, num_steps=n, signal=s / n)] * 2).size for s, n in progress}
    assert len(sizes) == 1


def test_large_grids_and_large_pictures_are_drawn_in_whole_pixels():
    wide = FilmPanel("", Image.new("RGB", (300, 200)), torch.ones(4, 100, 150) / 4, 1, 1, 1.0, 0.0)
    assert draw_film_frame([wide]).width >= 300


def test_a_frame_of_nothing_is_refused():
    with pytest.raises(GenrefineError, match="at least one sample"):
        draw_film_frame([])
