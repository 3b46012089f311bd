"""Laws of a class pipeline call."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image

from genrefine import ClassPipeline, GenrefineError, RefinementSampler
from genrefine.media.pixels import to_pil
from genrefine.pipelines.request import resolve_seeds
from genrefine.sampling.options import OPTIONS
from tiny_models import CLASS_NAMES, tiny_pipeline, tiny_refiner, tiny_tokenizer


def test_same_seed_gives_same_picture_alone_in_any_batch_and_in_any_order(pipe):
    labels, seeds = [0, 2, None, 2, 5], [11, 3, 5, 11, 8]
    batch = pipe(labels, seed=seeds)
    for index in range(5):
        alone = pipe(labels[index], seed=seeds[index])
        assert alone.images[0].tobytes() == batch.images[index].tobytes()
        assert torch.equal(alone.codes[0], batch.codes[index])
    turned = pipe(labels[::-1], seed=seeds[::-1])
    assert torch.equal(turned.codes.flip(0), batch.codes)


def test_adaptive_budgets_do_not_couple_pictures(pipe):
    labels, seeds = [0, 1, 2, 3, 4, 5], list(range(6))
    batch = pipe(labels, seed=seeds, adaptive=True)
    assert len(set(batch.num_steps)) > 1
    for index in range(6):
        alone = pipe(labels[index], seed=seeds[index], adaptive=True)
        assert alone.num_steps[0] == batch.num_steps[index]
        assert torch.equal(alone.codes[0], batch.codes[index])


def test_settings_and_seeds_of_a_result_make_it_again(pipe):
    first = pipe(["flags/noto", None], num_images_per_prompt=2, temperature=0.7, kernel="exact")
    again = pipe(first.class_labels, seed=first.seeds, **first.settings)
    assert torch.equal(first.codes, again.codes)
    adaptive = pipe([0, 1], adaptive=True, seed=1)
    assert torch.equal(adaptive.codes, pipe([0, 1], seed=1, **adaptive.settings).codes)


def test_drawn_seeds_differ_between_calls_and_pictures(pipe):
    seeds = pipe([0] * 4, num_inference_steps=1).seeds + pipe([0] * 4, num_inference_steps=1).seeds
    assert len(set(seeds)) == 8


def test_one_seed_counts_up_over_the_pictures(pipe):
    assert pipe([0, 1], num_images_per_prompt=2, seed=7, num_inference_steps=1).seeds == [7, 8, 9, 10]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_seeds_come_in_any_kind_of_list(kind):
    assert resolve_seeds(2, kind([8, 2**40]), None) == [8, 2**40]
    assert resolve_seeds(2, kind([8])[0], None) == [8, 9]


@pytest.mark.parametrize("seed", [1.5, "7", [None], np.array([0.5]), object()])
def test_what_is_no_seed_or_generator_is_refused_in_one_line(seed):
    with pytest.raises(GenrefineError, match="a seed must be a whole number, or one for each picture"):
        resolve_seeds(1, seed, None)
    with pytest.raises(GenrefineError, match=r"generator must be a torch\.Generator or a list of them"):
        resolve_seeds(1, None, seed)


def test_generators_give_seeds_that_make_the_pictures_again(pipe):
    out = pipe([0, 1], generator=torch.Generator().manual_seed(5))
    assert out.seeds == pipe([0, 1], generator=torch.Generator().manual_seed(5)).seeds
    assert torch.equal(out.codes, pipe([0, 1], seed=out.seeds).codes)
    generators = [torch.Generator().manual_seed(n) for n in (5, 6)]
    one_each = pipe([0, 1], generator=generators)
    assert one_each.seeds[0] == out.seeds[0]
    assert pipe([0, 1], generator=generators).seeds != one_each.seeds


def test_the_global_random_state_is_neither_read_nor_changed(pipe):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = pipe([0, 1], seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first.codes, pipe([0, 1], seed=3).codes)


def test_pictures_of_one_label_follow_each_other(pipe):
    out = pipe(["food/noto", None], num_images_per_prompt=2, seed=1)
    assert out.class_labels == ["food/noto", "food/noto", None, None]
    assert len(out.images) == len(out.seeds) == len(out.codes) == 4


def test_names_numbers_and_tensors_name_the_same_classes(pipe):
    by_name = pipe(["flags/noto", "food/fluent"], seed=1).codes
    assert torch.equal(by_name, pipe([2, 5], seed=1).codes)
    assert torch.equal(by_name, pipe(torch.tensor([2, 5]), seed=1).codes)


def test_the_class_decides_the_picture(pipe):
    assert not torch.equal(pipe(0, seed=1).codes, pipe(1, seed=1).codes)


def test_the_counts_of_a_result_are_those_of_its_steps(pipe):
    out = pipe([0, 1, 2], adaptive=True, seed=2, guidance_scale=2.0, guidance_interval=(0.0, 1.0))
    assert [len(trace) for trace in out.entropy] == out.num_steps
    assert out.num_evaluations == [2 * steps for steps in out.num_steps]
    assert all(0 <= value <= 1 for trace in out.entropy for value in trace)
    assert pipe([0, 1, 2], seed=2, guidance_scale=1.0).num_evaluations == [4, 4, 4]


def test_output_types_show_the_same_pictures(pipe):
    pil = pipe([0, 1], seed=4).images
    array = pipe([0, 1], seed=4, output_type="np").images
    tensor = pipe([0, 1], seed=4, output_type="pt").images
    codes = pipe([0, 1], seed=4, output_type="codes").images
    assert array.shape == (2, 16, 16, 3)
    assert tensor.shape == (2, 3, 16, 16)
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.round(array * 255).astype(np.uint8), np.stack([np.asarray(image) for image in pil]))
    assert torch.equal(codes, pipe([0, 1], seed=4, output_type="latent").images)
    assert to_pil(pipe.decode(codes))[1].tobytes() == pil[1].tobytes()


def test_tuple_output_holds_the_pictures_only(pipe):
    (images,) = pipe(0, seed=4, return_dict=False)
    assert isinstance(images[0], Image.Image)


def test_given_noise_takes_the_place_of_the_drawn_one(pipe):
    noise = torch.randint(2, (1, 4, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    first = next(pipe.refine(0, seed=1, noise=noise))
    assert first.blank.any()
    assert torch.equal(first.state[first.blank], noise[first.blank])
    drawn = next(pipe.refine(0, seed=1))
    assert torch.equal(first.is_held, drawn.is_held)
    assert not torch.equal(first.state[first.blank], drawn.state[drawn.blank])
    assert torch.equal(pipe(0, seed=1, noise=noise).codes, pipe(0, seed=1, noise=noise.clone()).codes)
    with pytest.raises(GenrefineError, match="noise must be codes"):
        pipe(0, seed=1, noise=noise + 2)


def test_steps_of_refine_end_in_the_codes_of_the_call(pipe):
    steps = list(pipe.refine([0, 1], seed=5))
    out = pipe([0, 1], seed=5)
    assert len(steps) == 4
    assert torch.equal(steps[-1].prediction, out.codes)


@pytest.mark.parametrize("sampling", [{}, {"adaptive": True}], ids=["fixed", "adaptive"])
def test_a_request_can_be_run_in_parts(pipe, sampling):
    noise = torch.randint(2, (5, 4, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    request = pipe.prepare([0, 1, None, 2, 3], seed=5, noise=noise, **sampling)
    whole = pipe.run(request, output_type="codes")
    parts = [pipe.run(request, rows, output_type="codes") for rows in (slice(0, 2), slice(2, 5))]
    assert torch.equal(whole.codes, torch.cat([part.codes for part in parts]))
    for name in ("class_labels", "seeds", "num_steps", "entropy", "num_evaluations"):
        assert getattr(whole, name) == [value for part in parts for value in getattr(part, name)]
    assert torch.equal(whole.codes, pipe([0, 1, None, 2, 3], seed=5, noise=noise, **sampling).codes)


def test_the_signature_of_a_call_shows_all_that_it_takes(pipe):
    shown = inspect.signature(type(pipe).__call__).parameters
    assert {"class_labels", "seed", "noise", "output_type", "callback_on_step_end", *OPTIONS} <= set(shown)
    assert not {"arguments", "sampling", "request", "rows"} & set(shown)
    assert inspect.signature(pipe).parameters.keys() == shown.keys() - {"self"}


def test_callback_that_writes_into_its_tensors_changes_nothing(pipe):
    def spoil(pipeline, step, signal, tensors):
        tensors["prediction"].zero_()
        tensors["state"].zero_()
        record = tensors["record"]
        for tensor in (record.prediction, record.state, record.finished, record.signal, record.entropy):
            tensor.zero_()

    names = ["prediction", "state", "record"]
    out = pipe([0, 1], seed=5, callback_on_step_end=spoil, callback_on_step_end_tensor_inputs=names)
    assert torch.equal(out.codes, pipe([0, 1], seed=5).codes)
    assert out.entropy == pipe([0, 1], seed=5).entropy


def test_callback_sees_every_step_and_changes_nothing(pipe):
    seen = []

    def look(pipeline, step, signal, tensors):
        seen.append((step, signal, tensors["prediction"].clone()))
        return tensors

    out = pipe([0, 1], seed=5, callback_on_step_end=look)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert [signal for _, signal, _ in seen] == [0.25, 0.5, 0.75, 1.0]
    assert torch.equal(seen[-1][2], out.codes)
    with pytest.raises(GenrefineError, match="changes nothing"):
        pipe(0, callback_on_step_end=lambda p, i, t, tensors: {"prediction": tensors["prediction"] + 1})


def test_callback_may_end_the_refinement(pipe):
    def stop(pipeline, step, signal, tensors):
        pipeline._interrupt = step == 1

    out = pipe([0, 1], seed=5, callback_on_step_end=stop)
    assert out.num_steps == [2, 2]
    assert torch.equal(out.codes, list(pipe.refine([0, 1], seed=5))[1].prediction)
    assert pipe([0, 1], seed=5).num_steps == [4, 4]


def test_progress_bar_counts_the_steps_that_were_taken(capsys):
    noisy = tiny_pipeline()
    noisy.set_progress_bar_config(desc="refining", mininterval=0)
    steps = noisy([0], seed=0, adaptive=True).num_steps[0]
    assert f"{steps}/{steps}" in capsys.readouterr().err
    noisy.set_progress_bar_config(disable=True)
    noisy([0], seed=0)
    assert capsys.readouterr().err == ""


def test_saved_defaults_are_used_and_reported():
    pipe = tiny_pipeline(num_inference_steps=3, guidance_scale=1.5, temperature=0.8)
    out = pipe("flags/noto", seed=1)
    assert out.num_steps == [3]
    assert out.settings["guidance_scale"] == 1.5
    assert out.settings["temperature"] == 0.8
    given = {"num_inference_steps": 3, "guidance_scale": 1.5, "temperature": 0.8}
    assert torch.equal(out.codes, tiny_pipeline()("flags/noto", seed=1, **given).codes)


def test_without_a_class_guidance_is_off_and_cannot_be_asked_for(pipe):
    out = pipe(None, seed=1)
    assert out.num_evaluations == [4]
    assert out.settings["guidance_scale"] == 1.0
    with pytest.raises(GenrefineError, match="guidance needs a class"):
        pipe(None, guidance_scale=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_labels": "flags/notto"}, "did you mean 'flags/noto'"),
        ({"class_labels": "flags"}, "not one class but 2; name one of: flags/noto, flags/fluent"),
        ({"class_labels": "zebra"}, "no class 'zebra' among 6"),
        ({"class_labels": 6}, "class numbers run from 0 to 5; got 6"),
        ({"class_labels": -1}, "class numbers run from 0 to 5"),
        ({"class_labels": True}, "class numbers run"),
        ({"class_labels": torch.tensor([0.5])}, "a name, a whole number or None; got 0.5"),
        ({"class_labels": []}, "at least one class"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1"),
        ({"seed": [1, 2]}, "one for each of the 1 pictures; got 2"),
        ({"seed": -1}, "a seed must be a whole number"),
        ({"seed": 1, "generator": torch.Generator()}, "got both"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1; got 0"),
        ({"num_inference_steps": 5, "adaptive": True}, "drop adaptive or num_inference_steps"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"guidance_scale": float("nan")}, "finite"),
        ({"guidance_interval": (0.9, 0.1)}, "low < high"),
        ({"kernel": "magic"}, "kernel"),
        ({"schedule": "magic"}, "schedule must be one of"),
        ({"output_type": "jpeg"}, "output_type must be one of"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, "knows prediction, state, record"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(pipe, changes, message):
    with pytest.raises(GenrefineError, match=message) as error:
        pipe(**{"class_labels": 0, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("sed", "seed"), ("guidance", "guidance_scale"), ("latents", "noise"), ("prompt", "class_labels")],
)
def test_unknown_arguments_are_refused_with_the_nearest_known_one(pipe, word, hint):
    with pytest.raises(TypeError, match=f"did you mean '{hint}'"):
        pipe(0, **{word: 1})
    with pytest.raises(GenrefineError, match="no argument 'zzz'; it knows"):
        pipe.refine(0, zzz=1)


def test_an_uncalibrated_model_refuses_adaptive_steps():
    with pytest.raises(GenrefineError, match="calibrate"):
        tiny_pipeline(entropy_steps=None)(0, adaptive=True)


def test_parts_that_do_not_fit_are_refused():
    sampler = RefinementSampler()
    with pytest.raises(GenrefineError, match="same codes"):
        ClassPipeline(tiny_refiner(), tiny_tokenizer(rounds=3), sampler)
    for names in (["a"], ["a"] * 6):
        with pytest.raises(GenrefineError, match="6 different names"):
            ClassPipeline(tiny_refiner(), tiny_tokenizer(), sampler, names)


def test_without_names_classes_are_called_by_their_numbers():
    pipe = ClassPipeline(tiny_refiner(), tiny_tokenizer(), RefinementSampler(num_inference_steps=1))
    pipe.set_progress_bar_config(disable=True)
    assert pipe.class_names == ["0", "1", "2", "3", "4", "5"]
    assert torch.equal(pipe("3", seed=1).codes, pipe(3, seed=1).codes)


def test_picture_size_is_that_of_the_pictures(pipe):
    assert pipe.picture_size == (16, 16)
    assert pipe(0, seed=0).images[0].size == (16, 16)
    assert len(CLASS_NAMES) == len(pipe.class_names)


def test_a_half_precision_pipeline_makes_pictures():
    pipe = tiny_pipeline().to(torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    assert pipe(0, seed=1).images[0].size == (16, 16)
