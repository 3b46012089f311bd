"""Judging a text pipeline by the captions of real pictures."""

import json

import pytest
import torch
from captioned import CONCEPTS, Captioned
from torch import nn

from genrefine.errors import GenrefineError
from genrefine.evaluation.features import collect_features
from genrefine.evaluation.prompt_samples import draw_prompts
from genrefine.evaluation.prompts import Columns, choose_prompts, evaluate_prompts, gallery_of
from tiny_models import tiny_text_pipeline


class Means(nn.Module):
    """Describe frames by the colors of their columns, which are enough for stripes."""

    num_features = 48
    description = "color means of columns"

    def forward(self, frames):
        return frames.float().mean(dim=2).flatten(1)


class Painter:
    """A pipeline that draws exactly what a source shows for the prompt."""

    def __init__(self, source: Captioned) -> None:
        tiny = tiny_text_pipeline()
        self.refiner, self.visual_tokenizer = tiny.refiner, tiny.visual_tokenizer
        self.text_encoder, self.sampler, self.picture_size = tiny.text_encoder, tiny.sampler, (16, 16)
        self.pixels = {group[0]: pixels for group, pixels in zip(source.captions, source.pixels, strict=True)}

    def __call__(self, prompt, *, seed, num_frames, output_type, num_inference_steps=1):
        drawn = torch.stack([self.pixels[one][:, 0] for one in prompt]) / 2 + 0.5
        steps = [2 if "dog" in one else 6 for one in prompt]
        return type("Output", (), {"images": drawn, "num_steps": steps, "num_evaluations": steps})()


def test_samples_are_those_of_the_pipeline_in_any_batch_and_are_kept(tmp_path):
    pipe, prompts = tiny_text_pipeline(), ["a red heart", "a dog", "pizza"]
    found = draw_prompts(pipe, prompts, 2, tmp_path / "run", progress=False)
    alone = pipe("a dog", seed=1, output_type="pt").images[0]
    assert torch.equal(found.frames[1, 0], (alone * 255).round().to(torch.uint8).permute(1, 2, 0))
    assert torch.equal(found.frames, draw_prompts(pipe, prompts, 3, progress=False).frames)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*.safetensors")}
    again = draw_prompts(pipe, prompts, 2, tmp_path / "run", progress=False)
    assert len(kept) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert torch.equal(again.frames, found.frames)
    with pytest.raises(GenrefineError, match="different prompts"):
        draw_prompts(pipe, ["a dog"], 2, tmp_path / "run", progress=False)
    with pytest.raises(GenrefineError, match="at least one prompt"):
        draw_prompts(pipe, [], progress=False)


def test_clips_with_given_first_frames_are_kept_apart_from_clips_without(tmp_path):
    pipe, first = tiny_text_pipeline(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = draw_prompts(pipe, ["dog", "heart"], 2, tmp_path, False, 5, num_inference_steps=2)
    assert found.pixels.shape == (2, 3, 5, 16, 16)
    assert found.num_steps.tolist() == [2, 2]
    with pytest.raises(GenrefineError, match="different first_frames"):
        draw_prompts(pipe, ["dog", "heart"], 2, tmp_path, False, 5, first, num_inference_steps=2)
    given = draw_prompts(pipe, ["dog", "heart"], 2, None, False, 5, first, num_inference_steps=2)
    expected = pipe("heart", seed=1, num_frames=5, first_frame=first[1], output_type="pt", num_inference_steps=2)
    assert torch.equal(given.frames[1], (expected.frames[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1))


def test_a_perfect_painter_is_always_right_and_an_untrained_model_is_not():
    source, others = Captioned(), [Captioned(seed=1)]
    right = evaluate_prompts(Painter(source), source, others, extractor=Means(), progress=False)
    samples, ceiling, chance = right.accuracies
    assert (samples.concept.value, samples.style.value, samples.num_gallery) == (1, 1, 24)
    assert ceiling.num_gallery == chance.num_gallery == 23
    assert chance.concept.low < 1 / 6 < chance.concept.high
    untrained = evaluate_prompts(tiny_text_pipeline(), source, others, extractor=Means(), progress=False)
    assert untrained.accuracies[0].concept.value < 0.7
    assert untrained.comparisons[0].kernel.mean > right.comparisons[0].kernel.mean
    assert untrained.accuracies[1:] == right.accuracies[1:]  # ceiling and chance are of real pictures only


def test_groups_say_whose_samples_are_finished_soonest():
    source = Captioned()
    found = evaluate_prompts(Painter(source), source, extractor=Means(), progress=False, num_inference_steps=6)
    assert [(group.name, group.mean_steps) for group in found.groups] == [("alive", 4), ("thing", 6)]
    assert sum(group.accuracy.num_queries for group in found.groups) == found.num_prompts == 12
    assert found.mean_steps == pytest.approx(16 / 3)
    assert (found.fewest_steps, found.most_steps) == (2, 6)
    stored = json.loads(found.to_json())
    assert stored["accuracies"][0]["concept"]["value"] == 1
    assert stored["sampling"] == {"num_inference_steps": 6}
    none = evaluate_prompts(Painter(source), source, columns=Columns(group=""), extractor=Means(), progress=False)
    assert none.groups == ()


def test_a_gallery_made_before_gives_the_same_numbers():
    source, others, columns = Captioned(), [Captioned(seed=1)], Columns()
    gallery = gallery_of(Means(), source, others, columns, progress=False)
    assert torch.equal(gallery.features[:12], collect_features(Means(), source.pixels.split(5)))
    assert gallery.shown.concepts[12] == CONCEPTS[0]
    arguments = {"extractor": Means(), "progress": False, "num_prompts": 8}
    assert evaluate_prompts(Painter(source), source, others, **arguments) == evaluate_prompts(
        Painter(source), source, gallery=gallery, **arguments
    )


def test_chosen_captions_are_repeatable_distinct_and_all_of_a_small_set():
    assert choose_prompts(4, 9, seed=0) == [0, 1, 2, 3]
    some = choose_prompts(50, 9, seed=0)
    assert some == choose_prompts(50, 9, seed=0) != choose_prompts(50, 9, seed=1)
    assert len(set(some)) == 9
    with pytest.raises(GenrefineError, match="at least 1; got 0"):
        choose_prompts(4, 0, seed=0)


def test_pictures_without_captions_and_too_few_are_refused():
    source = Captioned()
    with pytest.raises(GenrefineError, match="eight captions"):
        evaluate_prompts(Painter(source), source, num_prompts=7, extractor=Means(), progress=False)
    source.captions = []
    with pytest.raises(GenrefineError, match="caption column"):
        evaluate_prompts(Painter(Captioned()), source, extractor=Means(), progress=False)
