"""The everyday words of diffusers' users, said to both pipelines."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback
from diffusers.hooks import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from networks import NETWORKS, REFINERS, answer, arguments
from PIL import Image

import genrefine
from genrefine import ClassPipeline, GenrefineError, RefinementSampler, TextPipeline
from genrefine.errors import GenrefineNotice
from genrefine.pipelines.maps import surprise_map
from hub_cache import put_into_hub_cache
from tiny_models import tiny_pipeline, tiny_refiner, tiny_text_encoder, tiny_text_pipeline, tiny_text_refiner

KINDS = {"class": (tiny_pipeline, "flags/noto"), "text": (tiny_text_pipeline, "a red heart")}


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """Return a pipeline and what to ask of it."""
    make, what = KINDS[request.param]
    return make(), what


def test_words_that_say_how_it_is_anyway_are_taken(made: tuple[Any, str], tmp_path: Path) -> None:
    pipe, what = made
    pipe.save_pretrained(tmp_path / "model", safe_serialization=True, variant=None)
    again = type(pipe).from_pretrained(tmp_path / "model", use_safetensors=True, variant=None)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(what, seed=1).codes, pipe(what, seed=1).codes)


@pytest.mark.parametrize("given", [{"safe_serialization": False}, {"use_safetensors": False}])
def test_pickles_are_refused(made: tuple[Any, str], given: dict[str, bool], tmp_path: Path) -> None:
    pipe, _ = made
    for call in (pipe.save_pretrained, type(pipe).from_pretrained):
        with pytest.raises(GenrefineError, match="safetensors only"):
            call(tmp_path / "model", **given)


def test_variants_are_refused_by_a_line_that_names_dtype(made: tuple[Any, str], tmp_path: Path) -> None:
    pipe, _ = made
    for call in (pipe.save_pretrained, type(pipe).from_pretrained, pipe.push_to_hub):
        with pytest.raises(GenrefineError, match=r"no variants.*dtype=torch\.float16"):
            call(str(tmp_path / "model"), variant="fp16")


def test_a_pipeline_is_pushed_with_its_checksums_and_nothing_made_if_it_cannot(
    made: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is a folder here; what would be sent to it is what counts."""
    pipe, what = made
    repositories: list[str] = []

    class Made:
        repo_id = "org/name"

    def create(name: str, **_: Any) -> Made:
        repositories.append(name)
        return Made()

    def upload(_: Any, folder: str, repo_id: str, **__: Any) -> str:
        put_into_hub_cache(Path(folder), tmp_path / "cache")
        return repo_id

    for place in ("diffusers.utils.hub_utils", "diffusers.pipelines.pipeline_utils"):
        monkeypatch.setattr(f"{place}.create_repo", create)
    monkeypatch.setattr("diffusers.utils.hub_utils.load_or_create_model_card", lambda *_, **__: Card())
    monkeypatch.setattr("diffusers.utils.hub_utils.populate_model_card", lambda card: card)
    monkeypatch.setattr("diffusers.utils.hub_utils.PushToHubMixin._upload_folder", upload)
    assert pipe.push_to_hub("org/name") == "org/name"
    again = genrefine.load("org/name", cache_dir=tmp_path / "cache", local_files_only=True)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(what, seed=1).codes, pipe(what, seed=1).codes)
    repositories.clear()
    pipe.refiner.add_adapter(genrefine.refiner.adapter.lora_config(pipe.refiner))
    with pytest.raises(GenrefineError, match="is beside the weights"):
        pipe.push_to_hub("org/name")
    assert not repositories


class Card:
    def save(self, path: str) -> None:
        Path(path).write_text("")


def test_numbers_of_any_integer_type_are_numbers(made: tuple[Any, str]) -> None:
    pipe, what = made
    expected = pipe(what, seed=5, num_inference_steps=3, num_images_per_prompt=2).codes
    for number in (np.int64, np.int32, torch.tensor):
        counts = {"num_inference_steps": number(3), "num_images_per_prompt": number(2)}
        sizes = {} if isinstance(pipe, ClassPipeline) else {"height": number(16), "width": number(16)}
        sizes |= {} if isinstance(pipe, ClassPipeline) else {"num_frames": number(1)}
        assert torch.equal(pipe(what, seed=number(5), **counts, **sizes).codes, expected)
        if not isinstance(pipe, ClassPipeline):
            picture = Image.new("RGB", (16, 16), "red")
            edits = {"image": picture, "outpaint": [number(4), 0, 0, number(8)], "seed": 1, "num_inference_steps": 2}
            out = pipe(what, **edits)
            assert out.settings["outpaint"] == [4, 0, 0, 8]
            assert [type(side) for side in out.settings["outpaint"]] == [int] * 4
            surprise = surprise_map(pipe, picture, what, draws=number(2), seed=number(1))
            assert torch.equal(surprise.values, surprise_map(pipe, picture, what, draws=2, seed=1).values)
    with pytest.raises(GenrefineError, match="num_images_per_prompt must be a whole number; got True"):
        pipe(what, num_images_per_prompt=True)


@pytest.mark.parametrize("scale", [0, 0.0, 0.5, -1])
def test_guidance_below_one_is_off_and_says_so(made: tuple[Any, str], scale: float) -> None:
    pipe, what = made
    plain = pipe(what, seed=2, guidance_scale=1)
    with pytest.warns(GenrefineNotice, match="below 1 and means no guidance, as in diffusers"):
        out = pipe(what, seed=2, guidance_scale=scale)
    assert torch.equal(out.codes, plain.codes)
    assert out.settings["guidance_scale"] == 1.0
    assert out.num_evaluations == plain.num_evaluations
    assert not torch.equal(out.codes, pipe(what, seed=2, guidance_scale=6.0).codes)


class CutOff(PipelineCallback):
    """Guidance ends after a step, as diffusers' own callbacks of this kind do it."""

    tensor_inputs = ("prediction",)

    def callback_fn(self, pipeline: Any, step_index: int, _: float, callback_kwargs: dict[str, Any]) -> dict[str, Any]:
        assert pipeline.guidance_scale == (4.0 if step_index < self.config.cutoff_step_index + 1 else 0.0)
        assert pipeline.do_classifier_free_guidance == (pipeline.guidance_scale > 1)
        assert pipeline.num_timesteps == 4
        assert not pipeline.interrupt
        if step_index == self.config.cutoff_step_index:
            pipeline._guidance_scale = 0.0
        return callback_kwargs


def test_a_callback_of_diffusers_ends_guidance_and_the_output_says_so(made: tuple[Any, str]) -> None:
    pipe, what = made
    options = {"seed": 3, "num_inference_steps": 4, "guidance_scale": 4.0, "guidance_interval": (0.0, 1.0)}
    plain = pipe(what, **options)
    cut = pipe(what, **options, callback_on_step_end=CutOff(None, 1))
    assert (plain.num_evaluations, cut.num_evaluations) == ([8], [6])
    assert (plain.changed, cut.changed) == ([], ["guidance_scale 0 after step 1"])
    assert not torch.equal(plain.codes, cut.codes)
    assert torch.equal(pipe(what, **options).codes, plain.codes)  # nothing of it is left


def test_an_interrupt_ends_the_call_of_its_own_thread_only(made: tuple[Any, str]) -> None:
    pipe, what = made
    whole = pipe(what, seed=4, num_inference_steps=5).codes
    outputs: dict[str, Any] = {}
    both_began = threading.Barrier(2, timeout=60)

    def run(name: str, ends_at: int) -> None:
        def look(_: Any, step: int, __: float, ___: Any) -> None:
            if step == 0:
                both_began.wait()
            if step == ends_at:
                pipe._interrupt = True

        outputs[name] = pipe(what, seed=4, num_inference_steps=5, callback_on_step_end=look)

    threads = [threading.Thread(target=run, args=each) for each in (("short", 1), ("long", -1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outputs["short"].num_steps == [2]
    assert outputs["short"].changed == ["ended after step 1"]
    assert outputs["long"].num_steps == [5]
    assert torch.equal(outputs["long"].codes, whole)


def test_another_thread_ends_all_that_is_under_way(made: tuple[Any, str]) -> None:
    pipe, what = made

    def look(_: Any, step: int, __: float, ___: Any) -> None:
        if step == 1:
            stop = threading.Thread(target=setattr, args=(pipe, "_interrupt", True))
            stop.start()
            stop.join(60)

    assert pipe(what, seed=4, num_inference_steps=5, callback_on_step_end=look).num_steps == [2]


def test_components_make_the_same_pipeline_again() -> None:
    pipe = tiny_pipeline()
    again = ClassPipeline(**pipe.components)
    assert again.class_names == pipe.class_names
    numbered = ClassPipeline(**{**pipe.components, "refiner": tiny_refiner()})
    assert numbered.class_names == [str(number) for number in range(6)]
    parts = tiny_text_pipeline().components
    wide = TextPipeline(**parts, height=32, width=48, frames_per_second=5, max_tokens=7)
    assert dict(TextPipeline(**wide.components).config) == dict(wide.config)


def test_large_pictures_are_decoded_in_tiles(made: tuple[Any, str]) -> None:
    pipe, what = made
    whole = pipe(what, seed=1, output_type="pt").images
    pipe.enable_tiling(tile=3, overlap=1)
    in_tiles = pipe(what, seed=1, output_type="pt").images
    assert in_tiles.shape == whole.shape
    assert not torch.equal(in_tiles, whole)
    pipe.disable_tiling()
    assert torch.equal(pipe(what, seed=1, output_type="pt").images, whole)


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_answer_in_a_tuple_if_asked_to(kind: str) -> None:
    make, _ = NETWORKS[kind]
    network = make()
    given = arguments(kind) if kind in REFINERS else (torch.zeros(1, 3, 1, 16, 16),)
    with torch.no_grad():
        (answered,) = network(*given, return_dict=False)
        assert torch.equal(answered, network(*given))


def test_a_component_that_takes_anothers_place_is_saved_by_its_address(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.refiner = tiny_refiner(seed=5)
    pipe.save_pretrained(tmp_path)
    again = genrefine.load(tmp_path)
    assert torch.equal(answer("class", again.refiner), answer("class", tiny_refiner(seed=5)))


# Text encoders may leave.


def test_a_pipeline_without_encoder_takes_what_one_with_nothing_else_gives(tmp_path: Path) -> None:
    whole = tiny_text_pipeline()
    whole.save_pretrained(tmp_path / "model")
    options = {"seed": 3, "num_inference_steps": 3, "guidance_scale": 2.0}
    expected = whole(["a red heart", "dog"], negative_prompt="blue flag", **options)

    without = dict.fromkeys(("refiner", "visual_tokenizer", "sampler"))
    encoding = TextPipeline.from_pretrained(tmp_path / "model", **without)
    own, nulls = encoding.encode_prompt(["a red heart", "dog"], "blue flag")
    assert [one.shape[1] for one in (*own, *nulls)] == [24] * 4
    with pytest.raises(GenrefineError, match="has no refiner and no visual_tokenizer and no sampler"):
        encoding("a red heart")

    drawing = TextPipeline.from_pretrained(tmp_path / "model", text_encoder=None, tokenizer=None)
    drawing.set_progress_bar_config(disable=True)
    made = drawing(prompt_embeds=own, negative_prompt_embeds=nulls, **options)
    assert torch.equal(made.codes, expected.codes)
    own_again, _ = drawing.encode_prompt(prompt_embeds=own, negative_prompt_embeds=nulls, num_images_per_prompt=2)
    assert all(torch.equal(one, own[i // 2]) for i, one in enumerate(own_again))

    drawing.save_pretrained(tmp_path / "smaller")
    assert not (tmp_path / "smaller/text_encoder").exists()
    smaller = genrefine.load(tmp_path / "smaller")
    smaller.set_progress_bar_config(disable=True)
    made = smaller(prompt_embeds=own, negative_prompt_embeds=nulls, **options)
    assert torch.equal(made.codes, expected.codes)


def test_an_encoder_is_not_fetched_where_it_is_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_text_pipeline().save_pretrained(tmp_path / "model")
    asked: dict[str, Any] = {}

    def fetch(_: str, **options: Any) -> str:
        asked.update(options)
        return str(tmp_path / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    for part in ("text_encoder", "tokenizer"):
        for file in (tmp_path / "model" / part).iterdir():
            file.unlink()
    TextPipeline.from_pretrained("org/name", text_encoder=None, tokenizer=None)
    assert asked["ignore_patterns"] == ["text_encoder/*", "tokenizer/*"]


def test_an_encoder_may_leave_later_and_come_back() -> None:
    pipe, other = tiny_text_pipeline(), tiny_text_pipeline()
    own, nulls = pipe.encode_prompt("dog")
    expected = pipe("dog", seed=1)
    pipe.text_encoder = None
    assert torch.equal(pipe(prompt_embeds=own, negative_prompt_embeds=nulls, seed=1).codes, expected.codes)
    with pytest.raises(GenrefineError, match="has no text encoder; got a prompt; pass prompt_embeds"):
        pipe("dog")
    with pytest.raises(GenrefineError, match="this pipeline has no text_encoder"):
        pipe.encode_prompt("dog") if False else pipe.prompt_encoder
    with pytest.raises(GenrefineError, match="pass negative_prompt_embeds, or guidance_scale=1"):
        pipe(prompt_embeds=own)
    assert pipe(prompt_embeds=own, guidance_scale=1, seed=1).num_evaluations == expected.num_steps
    pipe.text_encoder = other.text_encoder
    assert torch.equal(pipe("dog", seed=1).codes, expected.codes)


def test_what_a_property_raises_is_not_called_a_missing_attribute() -> None:
    class Asking(TextPipeline):
        @property
        def stride(self) -> int:
            return self.visual_tokenizer.spatial_stride

    pipe = Asking(**tiny_text_pipeline().components | {"visual_tokenizer": None})
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'spatial_stride'"):
        pipe.stride  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'no_such_thing'"):
        pipe.no_such_thing  # noqa: B018


def test_a_sampler_needs_no_network() -> None:
    encoder, tokenizer = tiny_text_encoder()
    pipe = TextPipeline(sampler=RefinementSampler(), text_encoder=encoder, tokenizer=tokenizer)
    assert len(pipe.encode_prompt("dog")[0]) == 1
    with pytest.raises(GenrefineError, match="this pipeline has no text_encoder and tokenizer"):
        TextPipeline(sampler=RefinementSampler()).encode_prompt("dog")


# Blocks may be skipped.


@pytest.mark.parametrize("make", [lambda: tiny_refiner(in_context_start=0), tiny_text_refiner])
def test_first_block_caching_skips_blocks_and_at_no_threshold_changes_nothing(make: Any) -> None:
    def pipeline(threshold: float | None) -> Any:
        refiner = make()
        what = tiny_pipeline() if "num_classes" in refiner.config else tiny_text_pipeline()
        what.refiner = refiner
        if threshold is not None:
            refiner.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        return what

    calls = []
    outputs = []
    for threshold in (None, 0.0, 1e9):
        pipe = pipeline(threshold)
        what = "flags/noto" if isinstance(pipe, ClassPipeline) else "a red heart"
        pipe.refiner.blocks[1].mlp.register_forward_hook(lambda *_: calls.append(1))
        calls.clear()
        for _ in range(2):  # what is remembered of a call is none of the next one's business
            out = pipe([what] * 2, seed=1, num_inference_steps=8, guidance_scale=3.0, guidance_interval=(0.3, 1.0))
        outputs.append((out.codes, len(calls)))
    (plain, evaluations), (exact, as_many), (_, fewer) = outputs
    assert torch.equal(plain, exact)
    assert evaluations == as_many
    assert fewer < evaluations / 2


def test_caching_that_cannot_be_is_refused() -> None:
    threshold = FirstBlockCacheConfig(threshold=0.1)
    for refiner, config, message in (
        (tiny_refiner(), threshold, "class tokens join at block 1"),
        (tiny_text_refiner(attention="prefix"), threshold, "needs joint attention"),
        (tiny_text_refiner(depth=1), threshold, "at least two blocks"),
        (tiny_text_refiner(), PyramidAttentionBroadcastConfig(), "FirstBlockCacheConfig alone"),
    ):
        with pytest.raises(GenrefineError, match=message):
            refiner.enable_cache(config)
