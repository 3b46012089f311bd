"""`final_latents="expected"` through the pipelines: everything that shows a step shows the same thing."""

import pytest
import torch
from PIL import Image

from genrefine.media.pixels import to_pil, to_pil_clips
from genrefine.pipelines import inspect
from genrefine.pipelines.film import FilmRecorder

EXPECTED = {"final_latents": "expected"}


@pytest.mark.parametrize("options", [{}, {"adaptive": True}, {"guidance_scale": 2.0}])
def test_the_picture_is_that_of_the_last_step_everywhere(pipe, options):
    drawn = pipe([1, 2], seed=5, **options)
    film = FilmRecorder(["one", "two"])
    made = pipe([1, 2], seed=5, **options, **EXPECTED, **film.arguments)
    assert torch.equal(made.codes, drawn.codes)
    assert made.settings["final_latents"] == "expected"
    for row in range(2):
        picture = made.images[row].tobytes()
        assert picture != drawn.images[row].tobytes()
        assert film.panels[row][-1].picture.tobytes() == picture
        *_, last = inspect(pipe, [1, 2][row], seed=5 + row, **options, **EXPECTED)
        assert last.pictures[0].tobytes() == picture
        assert pipe([1, 2][row], seed=5 + row, **options, **EXPECTED).images[0].tobytes() == picture


def test_a_decoder_in_tiles_gets_them_too(pipe):
    whole = pipe(1, seed=3, **EXPECTED).images[0]
    try:
        pipe.enable_tiling(4, 0)
        assert pipe(1, seed=3, **EXPECTED).images[0].tobytes() == whole.tobytes()
        pipe.enable_tiling(2, 0)
        assert pipe(1, seed=3, **EXPECTED).images[0].tobytes() != whole.tobytes()
    finally:
        pipe.disable_tiling()


def test_a_run_that_is_ended_shows_what_is_expected_there(pipe):
    def stop(pipe, step, signal, tensors):
        pipe._interrupt = step == 1

    made = pipe(1, seed=3, **EXPECTED, callback_on_step_end=stop)
    _, second, *_ = pipe.refine(1, seed=3, **EXPECTED)
    assert made.images[0].tobytes() == to_pil(pipe.show(second))[0].tobytes()


def test_what_is_kept_of_a_picture_stays_what_its_codes_are(pipe):
    image, mask = Image.new("RGB", (16, 16), (10, 90, 200)), Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 16))
    given = {"image": image, "mask_image": mask, "seed": 1, "blend": False}
    *_, last = pipe.refine(0, **given, **EXPECTED)
    hbq = pipe.visual_tokenizer.hbq
    latents, kept = last.latents(hbq), hbq.decode(last.prediction)
    assert torch.equal(latents[..., 2:], kept[..., 2:])
    assert not torch.isin(latents[..., :2], hbq.decode(torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]]).int().T)).any()
    assert pipe(0, **given, **EXPECTED).images[0].tobytes() == to_pil(pipe.show(last))[0].tobytes()


def test_clips_and_given_first_frames(text_pipe):
    heart = Image.new("RGB", (16, 16), (200, 30, 30))
    given = {"num_frames": 5, "first_frame": heart, "seed": 2}
    made = text_pipe("dog", **given, **EXPECTED)
    *_, last = text_pipe.refine("dog", **given, **EXPECTED)
    hbq = text_pipe.visual_tokenizer.hbq
    assert torch.equal(last.latents(hbq)[:, :, :1], hbq.decode(last.prediction)[:, :, :1])
    shown = to_pil_clips(text_pipe.show(last))[0]
    assert [one.tobytes() for one in shown] == [one.tobytes() for one in made.frames[0]]
    drawn = text_pipe("dog", **given)
    assert torch.equal(drawn.codes, made.codes)
    assert drawn.frames[0][0].tobytes() == made.frames[0][0].tobytes()
    assert drawn.frames[0][-1].tobytes() != made.frames[0][-1].tobytes()
