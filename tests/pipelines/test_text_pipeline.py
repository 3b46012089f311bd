"""Laws of a text pipeline call."""

import numpy as np
import pytest
import torch
from PIL import Image

from genrefine import GenrefineError, RefinementSampler, TextPipeline
from genrefine.media.pixels import from_pil, to_pil, to_pil_clips
from genrefine.pipelines import FilmRecorder
from genrefine.pipelines.text_request import cover
from tiny_models import tiny_text_encoder, tiny_text_pipeline, tiny_text_refiner, tiny_tokenizer

PROMPTS = ["a red heart", "", "thumbs up pizza rocket flag of japan a blue dog"]
SEEDS = [11, 3, 5]
# Totals differ between prompts, which the entropies of an untrained network hardly do.
ADAPTIVE = {"warmup": 1, "slope": 100.0, "offset": -67.0, "min_steps": 3, "max_steps": 8}


def picture(height=16, width=16, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("kind", "attention"), [("bert", "joint"), ("umt5", "prefix")])
@pytest.mark.parametrize(
    "how",
    [{}, {"num_frames": 5}, {"adaptive": True}, {"negative_prompt": ["blue", "", "a red dog"]}],
    ids=["still", "clip", "adaptive", "negative"],
)
def test_same_seed_gives_same_sample_alone_and_beside_prompts_of_other_lengths(kind, attention, how):
    pipe = tiny_text_pipeline(kind, attention, entropy_steps=ADAPTIVE)
    batch = pipe(PROMPTS, seed=SEEDS, **how)
    for index, prompt in enumerate(PROMPTS):
        mine = {**how, "negative_prompt": how["negative_prompt"][index]} if "negative_prompt" in how else how
        alone = pipe(prompt, seed=SEEDS[index], **mine)
        assert torch.equal(alone.codes[0], batch.codes[index])
        assert alone.entropy[0] == batch.entropy[index]  # to the last bit of every logit
        assert alone.num_steps[0] == batch.num_steps[index]
    if "adaptive" in how:
        assert len(set(batch.num_steps)) > 1


def test_the_pixels_of_a_sample_do_not_depend_on_its_batch(text_pipe):
    batch = text_pipe(PROMPTS, seed=SEEDS, num_frames=3)
    alone = text_pipe(PROMPTS[2], seed=SEEDS[2], num_frames=3)
    assert [frame.tobytes() for frame in alone.frames[0]] == [frame.tobytes() for frame in batch.frames[2]]


@pytest.mark.parametrize("num_frames", [1, 5])
def test_a_first_frame_leads_every_clip_of_a_batch_as_it_leads_one(text_pipe, num_frames):
    if num_frames == 1:
        with pytest.raises(GenrefineError, match="a first frame needs frames after it; got num_frames 1; ask for 3"):
            text_pipe("dog", first_frame=picture())
        return
    firsts = [picture(seed=1), picture(seed=2)]
    batch = text_pipe(["a red heart", "dog"], first_frame=firsts, num_frames=5, seed=4, adaptive=True)
    assert batch.codes.shape == (2, 4, 3, 4, 4)
    for index, first in enumerate(firsts):
        alone = text_pipe(["a red heart", "dog"][index], first_frame=first, num_frames=5, seed=4 + index, adaptive=True)
        assert torch.equal(alone.codes[0], batch.codes[index])
        known = text_pipe.visual_tokenizer.encode(from_pil(first))[0]
        assert torch.equal(batch.codes[index][:, :1], known)
        reconstruction = to_pil(text_pipe.decode(known[None]))[0]
        assert batch.frames[index][0].tobytes() == reconstruction.tobytes()
    assert not torch.equal(batch.codes[0], text_pipe("a red heart", num_frames=5, seed=4, adaptive=True).codes[0])


def test_a_first_frame_comes_as_picture_path_or_tensor(text_pipe, tmp_path):
    first = picture()
    first.save(tmp_path / "first.png")
    unit = (from_pil(first)[0, :, 0] + 1) / 2
    kinds = [first, tmp_path / "first.png", str(tmp_path / "first.png"), unit, unit[None]]
    codes = [text_pipe("dog", first_frame=kind, num_frames=3, seed=1).codes for kind in kinds]
    assert all(torch.equal(codes[0], other) for other in codes[1:])


def test_a_first_frame_of_another_size_is_covered_and_cropped_with_a_notice(text_pipe):
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    with pytest.warns(UserWarning, match=r"the first frame is 32 x 96 \(height x width\), the clip 16 x 16; it was"):
        out = text_pipe("dog", first_frame=wide, num_frames=3, seed=1)
    blue = Image.new("RGB", (16, 16), (0, 0, 255))
    assert torch.equal(out.codes, text_pipe("dog", first_frame=blue, num_frames=3, seed=1).codes)


@pytest.mark.parametrize(
    ("size", "scaled", "corner"),
    [((50, 30), (27, 16), (5, 0)), ((30, 51), (16, 27), (0, 5)), ((9, 16), (16, 28), (0, 6))],
)
def test_a_first_frame_is_fitted_by_whole_pixels_as_published(size, scaled, corner):
    """A crop between pixels gives other levels, and other bits of codes."""
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    whole = Image.fromarray(levels).resize(scaled, Image.Resampling.LANCZOS)
    expected = whole.crop((*corner, corner[0] + 16, corner[1] + 16))
    assert cover(Image.fromarray(levels), 16, 16).tobytes() == expected.tobytes()


def test_a_transparent_first_frame_stands_on_white(text_pipe):
    clear, white = Image.new("RGBA", (16, 16), (0, 0, 0, 0)), Image.new("RGB", (16, 16), "white")
    codes = [text_pipe("dog", first_frame=one, num_frames=3, seed=1).codes for one in (clear, white)]
    assert torch.equal(*codes)


def test_the_film_of_a_given_first_frame_shows_it_as_kept(text_pipe):
    recorder = FilmRecorder(["dog"])
    out = text_pipe("dog", first_frame=picture(), num_frames=3, seed=1, **recorder.arguments)
    assert recorder.panels[0][0].shares[0].mean() == pytest.approx(0.5)  # one of two latent frames
    assert recorder.panels[0][-1].picture.tobytes() == out.frames[0][1].tobytes()


def test_the_null_prompt_is_the_empty_one_and_turns_guidance_off(text_pipe):
    out = text_pipe("", seed=1)
    assert torch.equal(out.codes, text_pipe(seed=1).codes)
    assert torch.equal(out.codes, text_pipe("  \n", seed=1).codes)
    assert out.num_evaluations == [4]
    assert out.settings["guidance_scale"] == 1
    with pytest.raises(GenrefineError, match="guidance needs a prompt"):
        text_pipe("", guidance_scale=2.0)
    assert text_pipe("", negative_prompt="dog", seed=1).num_evaluations == [6]


def test_prompt_and_negative_prompt_decide_the_picture(text_pipe):
    heart = text_pipe("a red heart", seed=1).codes
    assert not torch.equal(heart, text_pipe("dog", seed=1).codes)
    assert not torch.equal(heart, text_pipe("a red heart", negative_prompt="dog", seed=1).codes)
    one_each = text_pipe(["dog", "a red heart"], negative_prompt=["pizza", "dog"], seed=[2, 1])
    assert torch.equal(one_each.codes[1:], text_pipe("a red heart", negative_prompt="dog", seed=1).codes)


@pytest.mark.parametrize("attention", ["joint", "prefix"])
def test_given_embeddings_take_the_place_of_prompts(attention):
    pipe = tiny_text_pipeline(attention=attention)
    own, other, null, negative = pipe.prompt_encoder.encode(["a red heart", "a blue dog", "", "pizza"])
    expected = pipe(["a red heart", "a blue dog"], negative_prompt="pizza", num_images_per_prompt=2, seed=1)
    for embeds in ([own, other], torch.stack([own, other])):
        given = pipe(prompt_embeds=embeds, negative_prompt_embeds=negative, num_images_per_prompt=2, seed=1)
        assert torch.equal(given.codes, expected.codes)
        assert given.prompts == [None] * 4
    assert torch.equal(pipe(prompt_embeds=own, seed=1).codes, pipe("a red heart", seed=1).codes)
    assert torch.equal(pipe("dog", negative_prompt_embeds=null, seed=1).codes, pipe("dog", seed=1).codes)


def test_settings_and_seeds_of_a_result_make_it_again(text_pipe):
    how = {"height": 8, "width": 24, "num_frames": 3, "temperature": 0.7, "negative_prompt": ["blue", ""]}
    first = text_pipe(["dog", "a red heart"], num_images_per_prompt=2, **how)
    again = text_pipe(first.prompts, seed=first.seeds, **first.settings)
    assert first.prompts == ["dog", "dog", "a red heart", "a red heart"]
    assert torch.equal(first.codes, again.codes)
    assert again.settings == first.settings


def test_any_valid_size_is_made(text_pipe):
    out = text_pipe("dog", height=12, width=20, seed=1)
    assert out.images[0].size == (20, 12)
    assert out.frames is None
    clip = text_pipe("dog", height=12, width=20, num_frames=5, seed=1)
    assert [frame.size for frame in clip.frames[0]] == [(20, 12)] * 5
    assert clip.images is None


def test_output_types_show_the_same_clips(text_pipe):
    how = {"num_frames": 3, "seed": 4}
    pil, array, tensor, codes = (
        text_pipe(["dog", "pizza"], output_type=kind, **how).frames for kind in ("pil", "np", "pt", "codes")
    )
    assert array.shape == (2, 3, 16, 16, 3)
    assert tensor.shape == (2, 3, 3, 16, 16)
    assert np.array_equal(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    bytes_of = np.stack([[np.asarray(frame) for frame in clip] for clip in pil])
    assert np.array_equal(np.round(array * 255).astype(np.uint8), bytes_of)
    assert to_pil_clips(text_pipe.decode(codes))[1][2].tobytes() == pil[1][2].tobytes()
    (frames,) = text_pipe(["dog", "pizza"], return_dict=False, **how)
    assert frames[0][0].tobytes() == pil[0][0].tobytes()


def test_a_callback_sees_whole_clips_and_may_end_them(text_pipe):
    seen = []

    def look(pipeline, step, signal, tensors):
        seen.append(tensors["prediction"])
        pipeline._interrupt = step == 1

    out = text_pipe("dog", first_frame=picture(), num_frames=3, seed=5, callback_on_step_end=look)
    assert [tuple(codes.shape) for codes in seen] == [(1, 4, 2, 4, 4)] * 2
    assert torch.equal(out.codes, seen[-1])
    assert out.num_steps == [2]


def test_given_noise_is_that_of_the_frames_to_predict(text_pipe):
    noise = torch.ones(1, 4, 1, 4, 4, dtype=torch.int32)
    step = next(text_pipe.refine("dog", first_frame=picture(), num_frames=3, seed=1, noise=noise))
    assert (step.state[:, :, 1:][step.blank[:, :, 1:]] == 1).all()
    assert step.kept[:, :, :1].all()
    with pytest.raises(GenrefineError, match="noise must be codes of shape"):
        next(text_pipe.refine("dog", num_frames=3, seed=1, noise=noise))


def test_generators_give_seeds_that_make_the_pictures_again(text_pipe):
    generators = [torch.Generator().manual_seed(n) for n in (5, 6)]
    out = text_pipe(["dog", "pizza"], generator=generators)
    assert torch.equal(out.codes, text_pipe(["dog", "pizza"], seed=out.seeds).codes)


def test_a_long_prompt_is_cut_with_a_warning_that_names_the_rest(text_pipe):
    with pytest.warns(UserWarning, match=r"got 10002; dropped 9490 words: dog dog"):
        text_pipe(" ".join(["dog"] * 10_000), seed=1, num_inference_steps=1)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"num_frames": 4}, r"frames must be 1 \+ 2k; got 4; nearest 3 or 5"),
        ({"num_frames": 0}, r"frames must be 1 \+ 2k; got 0; nearest 1"),
        ({"height": 15}, "height must be a multiple of 4; got 15; nearest 12 or 16; nearest trained size 16 x 16"),
        ({"width": 0}, "width must be a multiple of 4; got 0; nearest 4"),
        ({"prompt": []}, "at least one text; got none"),
        ({"prompt": "a\x07b"}, r"control character U\+0007 at position 1"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt must be one for all 1 prompts or one each; got 2"),
        ({"prompt_embeds": torch.zeros(1, 2, 24)}, "prompt and prompt_embeds"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 2, 25)}, r"must be \(tokens, 24\) for every prompt"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 0, 24)}, r"must be \(tokens, 24\)"),
        ({"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(2, 24)}, "exclude each other"),
        ({"first_frame": "no.png", "num_frames": 3}, "cannot read picture 'no.png'"),
        ({"first_frame": torch.zeros(3, 16, 16) - 1, "num_frames": 3}, r"in \[0, 1\]"),
        ({"first_frame": torch.zeros(16, 16, 3), "num_frames": 3}, r"floats of shape \(3, height, width\)"),
        ({"first_frame": [picture(), picture()], "num_frames": 3}, "first_frame must be one for all 1 prompts"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1"),
        ({"seed": [1, 2]}, "one for each of the 1 pictures; got 2"),
        ({"output_type": "mp4"}, "output_type must be one of"),
        ({"class_labels": 3}, "did you mean 'prompt'"),
        ({"num_frame": 3}, "did you mean 'num_frames'"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(text_pipe, request_, message):
    with pytest.raises(GenrefineError, match=message) as error:
        text_pipe(**{"prompt": "dog", **request_})
    assert "\n" not in str(error.value)


def test_a_model_of_stills_makes_no_clips():
    pipe = tiny_text_pipeline(tokenizer=tiny_tokenizer())
    with pytest.raises(GenrefineError, match="makes stills only; got num_frames 13; nearest num_frames 1"):
        pipe("dog", num_frames=13)
    with pytest.raises(GenrefineError, match="makes stills only; got a first frame"):
        pipe("dog", first_frame=picture())
    assert len(pipe("dog", seed=1).images) == 1


def test_a_model_of_the_published_strides_suggests_the_nearest_published_bucket():
    tokenizer = tiny_tokenizer(channel_multipliers=(1, 1, 1, 1), temporal_downsample=(False, True, True))
    with pytest.raises(GenrefineError, match=r"height must be a multiple of 16; got 250; .*trained size 256 x 256"):
        tiny_text_pipeline(tokenizer=tokenizer)("dog", height=250, width=256)


def test_prefix_attention_takes_no_first_frame():
    with pytest.raises(GenrefineError, match="prefix attention takes no first frame"):
        tiny_text_pipeline(attention="prefix")("dog", first_frame=picture(), num_frames=3)


def test_parts_that_do_not_fit_are_refused():
    refiner, tokenizer, sampler = tiny_text_refiner(), tiny_tokenizer(), RefinementSampler()
    with pytest.raises(GenrefineError, match="same codes"):
        TextPipeline(refiner, tiny_tokenizer(rounds=3), sampler, *tiny_text_encoder())
    with pytest.raises(GenrefineError, match="reads 20 channels, the encoder gives 24; use the text encoder that"):
        TextPipeline(tiny_text_refiner(text_channels=20), tokenizer, sampler, *tiny_text_encoder())
    with pytest.raises(GenrefineError, match="height must be a multiple of 4"):
        TextPipeline(refiner, tokenizer, sampler, *tiny_text_encoder(), height=15)
    with pytest.raises(GenrefineError, match="frames_per_second must be a positive number"):
        TextPipeline(refiner, tokenizer, sampler, *tiny_text_encoder(), frames_per_second=0)


def test_text_keys_and_values_are_computed_once_per_call():
    pipe = tiny_text_pipeline(attention="prefix")
    runs = []
    pipe.refiner.text_embedding.register_forward_hook(lambda *_: runs.append(1))
    pipe(["dog", "a red heart"], num_images_per_prompt=2, seed=1)
    assert len(runs) == 1


def test_a_half_precision_pipeline_makes_clips():
    pipe = tiny_text_pipeline().to(torch.bfloat16)
    out = pipe("dog", first_frame=picture(), num_frames=3, seed=1)
    assert [frame.size for frame in out.frames[0]] == [(16, 16)] * 3


def test_a_replaced_text_encoder_is_used():
    pipe = tiny_text_pipeline()
    before = pipe("dog", seed=1).codes
    pipe.text_encoder, _ = tiny_text_encoder(seed=1)
    assert not torch.equal(before, pipe("dog", seed=1).codes)


def test_a_request_of_clips_with_first_frames_can_be_run_in_parts(text_pipe):
    frames = [picture(), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT), picture()]
    request = text_pipe.prepare(["dog", "cat", "dog"], first_frame=frames, num_frames=3, seed=4)
    whole = text_pipe.run(request, output_type="codes")
    parts = [text_pipe.run(request, rows, output_type="codes") for rows in (slice(0, 1), slice(1, 3))]
    assert torch.equal(whole.codes, torch.cat([part.codes for part in parts]))
    assert whole.prompts == ["dog", "cat", "dog"]
    assert [len(part.prompts) for part in parts] == [1, 2]


@pytest.mark.parametrize("size", [{"height": 2**20, "width": 2**20}, {"num_frames": 2**21 + 1}], ids=str)
def test_a_size_that_cannot_be_meant_is_refused_at_once(text_pipe, size):
    with pytest.raises(GenrefineError, match=r"may have 1,048,576 positions of codes; got [\d,]+ .* GB; ask for less"):
        text_pipe.prepare("dog", **size)


def test_ten_thousand_prompts_are_prepared_without_a_look_at_them(text_pipe, monkeypatch):
    """They took 15 ms and 5 MB each; texts are encoded with the samples that show them."""
    prompts = [f"a red heart and {index} others" for index in range(10_000)]
    with monkeypatch.context() as patch:
        patch.setattr(type(text_pipe.prompt_encoder), "encode", lambda *_: pytest.fail("encoded"))
        request = text_pipe.prepare(prompts, seed=3, num_inference_steps=2)
        with pytest.raises(GenrefineError, match=r"control character U\+0007 at position 4"):
            text_pipe.prepare([*prompts, "bell\a"])
    assert len(request) == 10_000
    part = text_pipe.run(request, slice(9_998, None))
    alone = text_pipe(prompts[9_999], seed=3 + 9_999, num_inference_steps=2)
    assert part.images[1].tobytes() == alone.images[0].tobytes()
