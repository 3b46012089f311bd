"""What the look inside says is what the network said and the sampler did."""

import pytest
import torch
from PIL import Image

from genrefine import ClassPipeline, GenrefineError, RefinementSampler
from genrefine.conditioning.class_condition import ClassCondition
from genrefine.pipelines import inspect
from genrefine.pipelines.inspection import final_pictures, inspected
from tiny_models import CLASS_NAMES, SAMPLER, tiny_refiner, tiny_tokenizer


@pytest.mark.parametrize("options", [{}, {"adaptive": True}])
def test_it_ends_in_the_picture_of_the_call(pipe, options):
    steps = list(inspect(pipe, 2, seed=5, **options))
    made = pipe(2, seed=5, **options)
    assert torch.equal(steps[-1].codes, made.codes[0])
    assert steps[-1].pictures[0].tobytes() == made.images[0].tobytes()
    assert [step.mean_entropy for step in steps] == made.entropy[0]
    assert [step.index for step in steps] == list(range(made.num_steps[0]))
    assert sum(step.num_evaluations for step in steps) == made.num_evaluations[0]
    assert all(torch.allclose(step.shares.sum(0), torch.ones(1, 4, 4)) for step in steps)
    assert steps[0].entropy.shape == (1, 4, 4)
    assert float(steps[0].entropy.mean()) == pytest.approx(steps[0].mean_entropy, abs=1e-5)


def test_bits_are_the_probabilities_that_labels_are_drawn_from(pipe):
    """At temperature T and without guidance: softmax(logits / T) of the state, asked for anew."""
    first, second = list(inspect(pipe, 1, seed=3, num_inference_steps=2, guidance_scale=1.0))
    record = next(iter(pipe.refine(1, seed=3, num_inference_steps=2, guidance_scale=1.0)))
    with torch.no_grad():
        logits = pipe.refiner(record.state, torch.tensor([0.5]), ClassCondition.of([1], 6, "cpu")).float()
    expected = torch.softmax(logits / SAMPLER["temperature"], -1)[0, :, 0, 1, 2, 1].unflatten(0, (2, -1)).T
    assert torch.allclose(second.bits(1, 2), expected, atol=1e-3)
    assert second.bits(1, 2).shape == (2, 2)  # latent values, rounds
    assert not torch.allclose(first.bits(1, 2), second.bits(1, 2), atol=1e-3)
    assert torch.equal(second.drawn(1, 2), second.codes[:, 0, 1, 2].unflatten(0, (2, -1)).T)


def test_bits_of_the_index_layout_are_sums_over_its_classes():
    parts = tiny_refiner(code_channels=2, code_classes=4), tiny_tokenizer(layout="index")
    pipe = ClassPipeline(*parts, RefinementSampler(**SAMPLER), list(CLASS_NAMES))
    pipe.set_progress_bar_config(disable=True)
    step = list(inspect(pipe, 0, seed=1))[-1]
    p = step.probabilities[:, 0, 3, 0].float()
    assert torch.allclose(step.bits(3, 0)[:, 0], p[:, 2] + p[:, 3], atol=1e-3)  # labels 10 and 11
    assert torch.allclose(step.bits(3, 0)[:, 1], p[:, 1] + p[:, 3], atol=1e-3)  # labels 01 and 11
    labels = step.codes[:, 0, 3, 0]
    assert torch.equal(step.drawn(3, 0), torch.stack([labels // 2, labels % 2], dim=1))


def test_clips_and_a_given_first_frame(text_pipe):
    heart = Image.new("RGB", (16, 16), (200, 30, 30))
    steps = list(inspect(text_pipe, "dog", num_frames=5, first_frame=heart, seed=2))
    made = text_pipe("dog", num_frames=5, first_frame=heart, seed=2)
    assert [frame.tobytes() for frame in steps[-1].pictures] == [frame.tobytes() for frame in made.frames[0]]
    first = steps[0]
    assert first.entropy.shape == (3, 4, 4)
    assert bool((first.entropy[0] == 0).all())
    assert bool((first.entropy[1:] > 0).all())
    assert set(first.bits(0, 0, frame=0).flatten().tolist()) <= {0.0, 1.0}
    assert torch.equal(first.bits(0, 0).round().int(), first.drawn(0, 0))
    assert bool((first.shares[0, 0] == 1).all())


def test_an_edit_comes_back_at_its_own_size(pipe):
    image, mask = Image.new("RGB", (40, 30), (10, 90, 200)), Image.new("L", (40, 30))
    mask.paste(255, (0, 0, 20, 30))
    given = {"image": image, "mask_image": mask, "seed": 1}
    request = pipe.prepare(0, **given)
    last = list(inspected(pipe, request))[-1]
    assert final_pictures(request, last)[0].tobytes() == pipe(0, **given).images[0].tobytes()


def test_what_cannot_be_looked_at_is_refused(pipe):
    with pytest.raises(GenrefineError, match="one sample is looked at; got a request for 2"):
        inspect(pipe, [0, 1])
    step = next(iter(inspect(pipe, 0, seed=1)))
    with pytest.raises(GenrefineError, match=r"1 frames of 4 x 4 positions, counted from 0; got frame 0, row 4"):
        step.bits(4, 0)
    with pytest.raises(GenrefineError, match="got frame 0, row -1"):
        step.drawn(-1, 0)
