"""Laws of editing, bit for bit in float32: the class and the text pipeline, guided and unguided, agree on them."""

import numpy as np
import pytest
import torch
from PIL import Image

from genrefine import GenrefineError
from genrefine.conditioning.class_condition import ClassCondition
from genrefine.media.pixels import from_pil
from genrefine.pipelines import CodeMap, FilmRecorder, change_map, entropy_map, random_map, surprise_map
from genrefine.pipelines.canvas import Canvas

RUNS = [{}, {"adaptive": True}, {"guidance_scale": 1.0}, {"kernel": "exact", "num_inference_steps": 4}]
IDS = ["guided", "adaptive", "unguided", "exact kernel"]


def picture(width: int = 16, height: int = 16, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height // 2 + 1, width // 2 + 1, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def half(width: int = 16, height: int = 16) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 2, height))
    return mask


@pytest.fixture(params=["class", "text"])
def call(request, pipe, text_pipe):
    """Return a pipeline and what two samples of it show."""
    return (pipe, [0, 2]) if request.param == "class" else (text_pipe, ["a red heart", "dog"])


def own_codes(pipe, image):
    return pipe.encode(from_pil(image.resize(pipe.picture_size[::-1], Image.Resampling.LANCZOS)))[0]


@pytest.mark.parametrize("options", RUNS, ids=IDS)
def test_a_full_mask_is_generation(call, options):
    pipe, what = call
    white = Image.new("L", (16, 16), 255)
    edited = pipe(what, image=picture(), mask_image=white, seed=3, **options)
    made = pipe(what, seed=3, **options)
    assert torch.equal(edited.codes, made.codes)
    assert edited.num_steps == made.num_steps
    assert edited.entropy == made.entropy


@pytest.mark.parametrize("options", RUNS, ids=IDS)
def test_strength_1_is_generation_and_0_reconstruction(call, options):
    pipe, what = call
    assert torch.equal(
        pipe(what, image=picture(), strength=1, seed=3, **options).codes, pipe(what, seed=3, **options).codes
    )
    kept = pipe(what, image=picture(), strength=0, seed=3, **options)
    assert all(torch.equal(codes, own_codes(pipe, picture())) for codes in kept.codes)
    assert kept.num_steps == [1, 1]


@pytest.mark.parametrize("options", RUNS, ids=IDS)
def test_an_empty_mask_is_reconstruction(call, options):
    pipe, what = call
    kept = pipe(what, image=picture(), mask_image=Image.new("L", (16, 16)), seed=3, blend=False, **options)
    assert all(torch.equal(codes, own_codes(pipe, picture())) for codes in kept.codes)
    decoded = pipe.decode(own_codes(pipe, picture())[None])
    assert torch.equal(
        from_pil(kept.images[0]), from_pil(pipe(what, image=picture(), strength=0, blend=False).images[0])
    )
    assert (from_pil(kept.images[0]) - decoded.clamp(-1, 1)).abs().max() < 1.01 / 127.5


@pytest.mark.parametrize("options", [*RUNS, {"strength": 0.5}], ids=[*IDS, "half strength"])
def test_codes_outside_the_mask_never_change(call, options):
    pipe, what = call
    request = pipe.prepare(what, image=picture(), mask_image=half(), seed=3, **options)
    own = own_codes(pipe, picture())
    fixed = request.edits[0].fixed
    assert 0.4 < fixed.float().mean() < 0.6
    last = None
    for step in pipe.steps(request):
        for codes, held in ((step.prediction, torch.ones_like(step.is_held)), (step.state, step.is_held)):
            assert all(torch.equal(one[fixed], own[fixed]) for one in codes)
            assert bool(held[:, fixed].all())
        last = step
    assert not torch.equal(last.prediction[0], own)


@pytest.mark.parametrize("options", [*RUNS, {"strength": 0.5, "adaptive": True}], ids=[*IDS, "half strength"])
def test_one_seed_is_one_picture_in_any_batch(call, options):
    pipe, what = call
    images, masks = [picture(seed=1), picture(seed=2)], [half(), half().transpose(Image.Transpose.TRANSPOSE)]
    both = pipe(what, image=images, mask_image=masks, seed=[5, 9], **options)
    for index, (one, image, mask) in enumerate(zip(what, images, masks, strict=True)):
        alone = pipe(one, image=image, mask_image=mask, seed=[5, 9][index], **options)
        assert torch.equal(alone.codes[0], both.codes[index])
        assert alone.num_steps[0] == both.num_steps[index]
        assert alone.images[0].tobytes() == both.images[index].tobytes()


def test_the_network_is_told_the_expected_share_of_right_codes(pipe):
    """f + (1 - f) t, with the share f of codes that are held."""
    told = []
    hook = pipe.refiner.register_forward_pre_hook(lambda _, given: told.append(given[1].clone()))
    try:
        options = {"seed": 1, "num_inference_steps": 4, "guidance_scale": 1.0, "schedule": "linear", "shift": 1.0}
        pipe(0, image=picture(), mask_image=half(), **options)
    finally:
        hook.remove()
    assert torch.cat(told).tolist() == pytest.approx([0.5, 0.625, 0.75, 0.875])


def test_less_strength_keeps_more_and_takes_fewer_steps(call):
    pipe, what = call
    image, shares, steps = picture(), [], []
    for strength in (0.1, 0.5, 1.0):
        first = next(iter(pipe.refine(what, image=image, strength=strength, seed=3, num_inference_steps=10)))
        shares.append(float(first.was_held.float().mean()))
        steps.append(int(first.num_steps[0]))
    assert steps == [1, 5, 10]
    assert shares == pytest.approx([0.9, 0.5, 0.0], abs=0.12)


def test_the_start_of_half_strength_follows_the_forward_process(pipe):
    """An element is the picture's own code with probability t_0 + (1 - t_0) / K."""
    own = own_codes(pipe, picture())
    agree = []
    for step in (next(iter(pipe.refine(0, image=picture(), strength=0.7, seed=seed))) for seed in range(60)):
        agree.append(torch.where(step.was_held, 1.0, 0.0))
        assert step.signal.item() == pytest.approx(0.3)
    assert torch.stack(agree).mean().item() == pytest.approx(0.3, abs=0.02)
    assert own.shape == agree[0].shape[1:]


@pytest.mark.parametrize(("width", "height"), [(16, 16), (40, 40), (37, 90), (300, 20), (7, 9)])
def test_pictures_of_any_size_come_back_at_their_own(call, width, height):
    pipe, what = call
    image = picture(width, height)
    made = pipe(what[0], image=image, mask_image=half(width, height), seed=1)
    assert made.images[0].size == (width, height)
    far = np.asarray(made.images[0])[:, -max(1, width // 8) :]
    assert np.array_equal(far, np.asarray(image)[:, -max(1, width // 8) :]), (
        "pixels far from the mask are the picture's"
    )
    shown = pipe(what[0], image=image, mask_image=half(width, height), seed=1, blend=False)
    assert shown.images[0].tobytes() != made.images[0].tobytes()


def test_transparent_turned_and_narrow_pictures_are_read_as_all_others_are(pipe, tmp_path):
    grey = Image.fromarray((np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).astype(np.uint16))
    clear = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    turned = picture(32, 16)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert pipe(0, image=tmp_path / "turned.jpg", strength=0).images[0].size == (16, 32)
    assert pipe(0, image=Image.open(tmp_path / "turned.jpg"), strength=0).images[0].size == (16, 32)
    white = pipe(0, image=Image.new("RGB", (16, 16), "white"), strength=0).codes
    assert torch.equal(pipe(0, image=clear, strength=0).codes, white)
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    assert torch.equal(pipe(0, image=grey, strength=0).codes, pipe(0, image=levels, strength=0).codes)


def test_outpainting_grows_the_picture_and_keeps_its_pixels(call):
    pipe, what = call
    image = picture()
    made = pipe(what[0], image=image, outpaint=(8, 4, 0, 12), seed=1)
    assert made.images[0].size == (24, 32)
    kept = made.images[0].crop((12, 8, 24, 16))
    assert kept.tobytes() == image.crop((4, 4, 16, 12)).tobytes()
    assert made.settings["outpaint"] == [8, 4, 0, 12]


def test_every_position_that_white_touches_is_made_anew():
    """Against one rectangle of pixels for each position, at sizes that the grid does not divide."""
    draw = np.random.default_rng(0)
    for _ in range(40):
        width, height, stride = int(draw.integers(3, 60)), int(draw.integers(3, 60)), 4
        mask = np.zeros((height, width), dtype=bool)
        y, x = int(draw.integers(0, height)), int(draw.integers(0, width))
        mask[y, x] = True
        canvas = Canvas(Image.new("RGB", (width, height)), mask, (16, 24))
        left, top, inner_width, inner_height = canvas.box
        expected = np.zeros((4, 6), dtype=bool)
        for row in range(4):
            for column in range(6):
                y0, y1 = top + y * inner_height / height, top + (y + 1) * inner_height / height
                x0, x1 = left + x * inner_width / width, left + (x + 1) * inner_width / width
                expected[row, column] = (
                    y0 < (row + 1) * stride
                    and y1 > row * stride
                    and x0 < (column + 1) * stride
                    and x1 > column * stride
                )
        released = canvas.released(stride).numpy()
        inside = np.zeros((4, 6), dtype=bool)
        inside[
            top // stride : -(-(top + inner_height) // stride), left // stride : -(-(left + inner_width) // stride)
        ] = True
        assert np.array_equal(released & inside, expected & inside)
        assert not (expected & ~inside).any()


def frames(count: int, size: int = 16) -> list[Image.Image]:
    return [picture(size, size, seed=index) for index in range(count)]


def test_a_clip_goes_on_from_its_first_frames(text_pipe):
    known = frames(3)
    request = text_pipe.prepare("dog", image=known, num_frames=7, seed=2)
    assert request.edits[0].fixed[0, :, 0, 0].tolist() == [True, True, False, False]
    out = text_pipe("dog", image=known, num_frames=7, seed=2)
    assert len(out.frames[0]) == 7
    assert [out.frames[0][index].tobytes() for index in range(3)] == [frame.tobytes() for frame in known]
    own = text_pipe.encode(torch.cat([from_pil(frame) for frame in [*known, *[known[-1]] * 4]], dim=2))[0]
    assert torch.equal(out.codes[0][:, :2], own[:, :2])


def test_a_clip_is_filled_in_between_its_first_and_last_frame(text_pipe):
    first, last = frames(2)
    known = [first, None, None, None, None, None, last]
    request = text_pipe.prepare("dog", image=known, num_frames=7, seed=2)
    assert request.edits[0].fixed[0, :, 0, 0].tolist() == [True, False, False, True]
    out = text_pipe("dog", image=known, num_frames=7, seed=2)
    assert out.frames[0][0].tobytes() == first.tobytes()
    assert out.frames[0][-1].tobytes() == last.tobytes()
    assert out.frames[0][3].tobytes() not in (first.tobytes(), last.tobytes())


def test_a_mask_over_frames_and_a_film_as_a_file(text_pipe, tmp_path):
    known = frames(5)
    known[0].save(tmp_path / "film.webp", save_all=True, append_images=known[1:], duration=100, lossless=True)
    masks = [Image.new("L", (16, 16)) for _ in range(4)] + [half()]
    request = text_pipe.prepare("dog", image=tmp_path / "film.webp", mask_image=masks, num_frames=5, seed=2)
    fixed = request.edits[0].fixed[0]
    assert fixed[:2].all()
    assert 0 < fixed[2].float().mean() < 1
    listed = text_pipe.prepare("dog", image=known, mask_image=masks, num_frames=5, seed=2)
    assert torch.equal(listed.edits[0].codes, request.edits[0].codes)


def test_settings_of_an_edit_make_it_again(call):
    pipe, what = call
    first = pipe(what, image=picture(), strength=0.4, seed=[3, 8], blend=False, temperature=0.7)
    again = pipe(what, image=picture(), seed=first.seeds, **first.settings)
    assert torch.equal(first.codes, again.codes)
    assert first.settings["strength"] == 0.4


def test_the_film_of_an_edit_shows_what_is_held_as_kept(pipe):
    recorder = FilmRecorder(["half"])
    pipe(0, image=picture(), mask_image=half(), seed=1, num_inference_steps=3, **recorder.arguments)
    kept = recorder.panels[0][0].shares[0]
    assert torch.all(kept[:, kept.shape[1] // 2 :] == 1)


def test_maps_are_exact_likelihoods(pipe, text_pipe):
    """A map at one signal and draw is the network's own log-probability of the codes that the corruption hid."""
    image = picture()
    codes = pipe.encode(from_pil(image))
    first = surprise_map(pipe, image, 0, signals=[0.5], draws=1, seed=4)
    noise = torch.randint(2, codes.shape, generator=(g := torch.Generator().manual_seed(4)), dtype=codes.dtype)
    kept = torch.rand(codes.shape, generator=g) < 0.5
    condition = ClassCondition.of([0], len(pipe.class_names), "cpu")
    with torch.no_grad():
        logits = pipe.refiner(torch.where(kept, codes, noise), torch.tensor([0.5]), condition)
    own = torch.log_softmax(logits.float(), -1).gather(-1, codes.long()[..., None])[..., 0]
    expected = -(own * ~kept).sum(1) / (~kept).sum(1).clamp_min(1)
    assert torch.allclose(first.values, expected[0], atol=1e-5)
    spread = torch.special.entr(torch.softmax(logits.float(), -1)).sum(-1)
    open_ = entropy_map(pipe, image, 0, signals=[0.5], draws=1, seed=4)
    assert torch.allclose(open_.values, ((spread * ~kept).sum(1) / (~kept).sum(1).clamp_min(1))[0], atol=1e-5)
    same = change_map(text_pipe, image, "dog", "dog")
    assert torch.all(same.values == 0)
    other = change_map(text_pipe, image, "dog", "a red heart")
    assert torch.allclose(other.values, -change_map(text_pipe, image, "a red heart", "dog").values, atol=1e-6)


def test_a_map_given_back_as_a_mask_releases_what_lies_above_the_threshold(pipe):
    image = picture(32, 32)
    found = surprise_map(pipe, image, 1)
    low, high = float(found.values.min()), float(found.values.max())
    assert low < found.threshold < high
    for threshold in (found.threshold, low - 1, high + 1):
        request = pipe.prepare(1, image=image, mask_image=found.mask(threshold, grow=0), seed=0)
        assert torch.equal(~request.edits[0].fixed[0], found.values > threshold)
    assert found.picture().size == (32, 32)
    two = CodeMap(torch.tensor([[[0.0, 0.1, 0.2], [5.0, 5.1, 5.2]]]), found.canvases, found.strides)
    assert 0.2 < two.threshold < 5.0


@pytest.mark.parametrize("make", [random_map, lambda *given, **more: entropy_map(*given, 1, **more)])
def test_a_variation_releases_a_share_of_the_positions_and_keeps_the_rest(pipe, make):
    image = picture(32, 32)
    found = make(pipe, image, seed=2)
    assert found.values.shape == (1, 4, 4)
    for share in (0.0, 0.25, 1.0):
        request = pipe.prepare(1, image=image, mask_image=found.mask(share=share, grow=0), seed=0)
        released = ~request.edits[0].fixed[0]
        assert released.sum() == share * 16
        assert found.values[released].min() >= found.values[~released].max() if share == 0.25 else True
    assert torch.equal(found.values, make(pipe, image, seed=2).values)
    assert not torch.equal(found.values, make(pipe, image, seed=3).values)
    with pytest.raises(GenrefineError, match="share in \\[0, 1\\]"):
        found.mask(share=1.5)
    with pytest.raises(GenrefineError, match="a threshold, or a share"):
        found.mask(threshold=0.0, share=0.5)


def test_maps_of_clips_have_a_mask_for_every_frame_and_other_sizes_are_asked_for(text_pipe):
    frames = [picture(16, 24, seed=seed) for seed in range(5)]
    found = change_map(text_pipe, frames, "dog", "a red heart", num_frames=5, height=24)
    assert found.values.shape == (3, 6, 4)
    masks = found.mask(grow=0)
    assert [mask.size for mask in masks] == [(16, 24)] * 5 == [shown.size for shown in found.picture()]
    request = text_pipe.prepare("a red heart", image=frames, mask_image=masks, num_frames=5, height=24, seed=0)
    assert torch.equal(~request.edits[0].fixed[0], found.above())
    assert masks[1].tobytes() == masks[2].tobytes() != masks[3].tobytes()  # frames 1 and 2 are one latent frame
    with pytest.raises(GenrefineError, match="must hold all 5 frames; got 4"):
        surprise_map(text_pipe, frames[:4], "dog", num_frames=5)
    with pytest.raises(GenrefineError, match="has no argument 'heigth'"):
        surprise_map(text_pipe, frames[0], "dog", heigth=24)


def test_an_adaptive_budget_shrinks_with_strength_too(call):
    pipe, what = call
    whole = pipe(what, image=picture(), strength=1.0, seed=3, adaptive=True)
    tenth = pipe(what, image=picture(), strength=0.1, seed=3, adaptive=True)
    assert tenth.num_steps == [2, 2]  # one before the decision and one after it
    assert min(whole.num_steps) >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": picture(), "strength": 1.5}, "strength must lie in [0, 1]"),
        ({"image": picture(), "strength": float("nan")}, "strength must lie in [0, 1]"),
        ({"image": picture(), "strength": True}, "strength must lie in [0, 1]"),
        ({"strength": 0.5}, "strength says how a picture is edited; give image="),
        ({"mask_image": half()}, "mask_image says how a picture is edited"),
        ({"image": picture(), "mask_image": half(8, 16)}, "must have the size of the picture, 16 x 16"),
        ({"image": picture(), "mask_image": 3}, "mask_image must be a PIL picture"),
        ({"image": 3}, "image must be a PIL picture"),
        ({"image": "none.png"}, "cannot read picture 'none.png'"),
        ({"image": [picture()] * 3}, "image must be one for all 1 prompts or one each; got 3"),
        ({"image": picture(), "outpaint": (0, 0, 0, 0)}, "one at least above 0"),
        ({"image": picture(), "outpaint": (1, 2)}, "outpaint must be four numbers"),
        ({"image": picture(), "outpaint": (9000, 0, 0, 0)}, "a picture may grow to 8192 pixels"),
    ],
)
def test_wrong_edits_end_in_one_line(call, arguments, message):
    pipe, what = call
    with pytest.raises(GenrefineError) as caught:
        pipe(what[0], seed=1, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": frames(8), "num_frames": 7}, "1 to 7 frames of the clip"),
        ({"image": [None, None], "num_frames": 3}, "not all None"),
        ({"image": [picture(), picture(8, 8)], "num_frames": 3}, "must have one size"),
        ({"image": frames(3), "mask_image": [half()] * 2, "num_frames": 3}, "mask_image must be one for all frames"),
        ({"image": frames(3), "first_frame": picture(), "num_frames": 3}, "leave first_frame out"),
    ],
)
def test_wrong_clips_end_in_one_line(text_pipe, arguments, message):
    with pytest.raises(GenrefineError, match=message):
        text_pipe("dog", seed=1, **arguments)
    with pytest.raises(GenrefineError, match="signals in"):
        surprise_map(text_pipe, picture(), "dog", signals=[1.0])
