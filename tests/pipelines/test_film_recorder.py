"""Laws of recording a film."""

import pytest
import torch

from genrefine import GenrefineError
from genrefine.pipelines import FilmRecorder
from genrefine.pipelines.film import position_shares


def test_shares_of_a_position_count_its_channels_and_add_up_to_one(pipe):
    for step in pipe.refine([0, 1], seed=3):
        shares = position_shares(step)
        assert shares.shape == (2, 4, 4, 4)
        assert torch.allclose(shares.sum(1), torch.ones(2, 4, 4))
        assert shares[1, 1, 2, 3] == step.filled[1, :, 0, 2, 3].float().mean()
        assert shares[0, 2, 1, 0] == step.erased[0, :, 0, 1, 0].float().mean()


def test_first_step_erases_nothing_and_last_step_leaves_nothing_blank(pipe):
    shares = [position_shares(step).mean(dim=(0, 2, 3)) for step in pipe.refine([0, 1], seed=3)]
    kept, _, erased, _ = shares[0]
    assert kept == erased == 0
    assert shares[-1][2] == shares[-1][3] == 0


def test_recording_does_not_change_the_pictures_and_ends_on_them(pipe):
    recorder = FilmRecorder(["a", "b"])
    out = pipe([0, 1], seed=3, **recorder.arguments)
    assert torch.equal(out.codes, pipe([0, 1], seed=3).codes)
    for index in range(2):
        assert recorder.panels[index][-1].picture.tobytes() == out.images[index].tobytes()
        assert [panel.entropy for panel in recorder.panels[index]] == pytest.approx(out.entropy[index])


def test_a_finished_picture_holds_its_last_panel(pipe):
    labels = [0, 1, 2, 3, 4, 5]
    recorder = FilmRecorder([str(label) for label in labels])
    out = pipe(labels, seed=0, adaptive=True, **recorder.arguments)
    assert [len(panels) for panels in recorder.panels] == out.num_steps
    frames = recorder.frames()
    assert len(frames) == max(out.num_steps) > min(out.num_steps)
    assert len({frame.size for frame in frames}) == 1


def test_captions_must_fit_and_an_unused_recorder_has_no_film(pipe):
    with pytest.raises(GenrefineError, match="one caption per picture"):
        pipe([0, 1], seed=3, **FilmRecorder(["a"]).arguments)
    with pytest.raises(GenrefineError, match="at least one recorded step"):
        FilmRecorder(["a"]).frames()
