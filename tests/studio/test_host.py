"""What the page stands on, without a browser: limits, requests, records, maps of what happens inside."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from genrefine import ClassPipeline, GenrefineError, TextPipeline
from genrefine.media.writing import save_png
from genrefine.pipelines import inspect
from genrefine.studio.host import AS_TYPED, Ask, Card, Host, ask_of, read_card
from genrefine.studio.limits import Limits
from genrefine.studio.making import Stop, make
from genrefine.studio.render import (
    bits_table,
    error_map,
    heat,
    overlay,
    position_at,
    show_entropy,
    show_fates,
    show_picture,
    step_line,
)
from genrefine.studio.runs import by_signal, find_runs, names_of, over_updates, previews_of, read_metrics, update_of
from tiny_models import tiny_pipeline, tiny_text_pipeline

CARD = Card(["a red heart", "dog"], ["a {}", "a blue {}"])


@pytest.fixture(scope="module")
def text_host():
    return Host(tiny_text_pipeline(), "tiny", Limits(steps=50, frames=9), CARD)


@pytest.fixture(scope="module")
def class_host():
    return Host(tiny_pipeline(), "tiny-class", Limits())


def last(steps):
    return list(steps)[-1]


def test_a_card_offers_prompts_and_styles(texts, tmp_path):
    card = read_card(texts)
    assert card == Card(["a red heart"], ["a {}", "a blue {}"])
    assert read_card(None) == read_card(tmp_path) == Card()
    for content in ("---\nwidget: [3, {}]\nstyles: 7\n---\n", "---\nwidget: {\n---\n", "no front matter"):
        (tmp_path / "README.md").write_text(content)
        assert read_card(tmp_path) == Card()


def test_the_page_opens_with_the_models_own_settings(text_host, class_host):
    ask = text_host.defaults()
    assert (ask.what, ask.style, ask.adaptive, ask.guidance, ask.temperature) == ("red heart", "a {}", True, 2.0, 0.9)
    assert text_host.prompt(ask) == "a red heart"
    assert text_host.prompt(replace(ask, style=AS_TYPED)) == "red heart"
    assert text_host.parted("a blue dog") == ("blue dog", "a {}")
    assert text_host.parted("dog") == ("dog", AS_TYPED)
    assert class_host.defaults().what == "animals/noto"
    assert class_host.frame_choices == []
    assert text_host.frame_choices == [3, 5, 7, 9]
    assert text_host.is_first_frame_taken


@pytest.mark.parametrize("adaptive", [True, False])
def test_what_is_made_is_what_the_pipeline_makes(text_host, class_host, adaptive):
    for host, what in ((text_host, "dog"), (class_host, "flags/noto")):
        ask = replace(host.defaults(), what=what, style=AS_TYPED, seed=3, count=3, adaptive=adaptive, steps=5)
        steps = list(make(host, ask))
        budget = {"adaptive": True} if adaptive else {"num_inference_steps": 5}
        own = host.pipeline(what, seed=3, num_images_per_prompt=3, guidance_scale=2.0, temperature=0.9, **budget)
        samples = steps[-1].samples
        assert [one.frames[0].tobytes() for one in samples] == [image.tobytes() for image in own.images]
        assert [one.ask.seed for one in samples] == [3, 4, 5]
        assert [one.notes["num_steps"] for one in samples] == [[count] for count in own.num_steps]
        assert [one.notes["num_evaluations"] for one in samples] == [[count] for count in own.num_evaluations]
        assert [one.notes["entropy"] for one in samples] == [[trace] for trace in own.entropy]
        assert samples[0].notes["settings"] == own.settings
        assert all(step.samples is None for step in steps[:-1])
        again = last(make(host, samples[2].ask)).samples[0]
        assert again.frames[0].tobytes() == own.images[2].tobytes()


def test_work_ends_where_it_is_asked_to(text_host):
    stop, seen = Stop(), []
    for step in make(text_host, replace(text_host.defaults(), adaptive=False, steps=40, seed=1), stop):
        seen.append(step)
        if step.done == 3:
            stop.ask()
    assert [step.done for step in seen] == [1, 2, 3, 4]
    assert seen[-1].is_stopped
    assert seen[-1].samples is None
    assert seen[-1].words == "stopped after step 4"
    assert [step.is_stopped for step in make(text_host, text_host.defaults(), stop)] == [True]
    stop.arm()
    assert last(make(text_host, replace(text_host.defaults(), seed=1), stop)).samples


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 9}, "at most 8 samples of a request; got 9; ask for less, or start the studio with --max-images"),
        ({"adaptive": False, "steps": 51}, "at most 50 refinements of a sample; got 51"),
        ({"frames": 17}, "at most 9 frames of a clip; got 17"),
        ({"what": "x" * 1001}, "at most 1000 characters of a prompt; got 1001"),
        ({"negative": "x" * 1001}, "at most 1000 characters"),
        ({"style": "no place"}, "a style has {} once"),
        ({"other": "{"}, "other settings are JSON"),
        ({"other": "[" * 90000}, "other settings are JSON"),
        ({"other": "[]"}, "other settings name some of"),
        ({"other": '{"seed": 1}'}, "other settings name some of"),
        ({"other": '{"schedule": "none"}'}, "schedule must be one of"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"guidance": math.inf}, "guidance_scale must be a finite number"),
        ({"frames": 4}, "frames must be 1 \\+ 2k"),
    ],
)
def test_what_is_beyond_a_limit_or_makes_no_sense_is_refused(text_host, change, message):
    with pytest.raises(GenrefineError, match=message):
        text_host.prepare(replace(text_host.defaults(), **change))


def test_limits_are_at_least_one():
    with pytest.raises(GenrefineError, match="--max-upload-megabytes must be at least 1; got 0"):
        Limits(upload_megabytes=0)


def test_a_picture_gives_its_request_back(text_host, class_host, tmp_path):
    ask = Ask("a dog", AS_TYPED, "pizza", 5, 1, False, 7, 1.5, 0.8, "exact", 1, '{"schedule": "cosine"}')
    sample = last(make(text_host, ask)).samples[0]
    save_png(sample.frames[0], tmp_path / "a.png", sample.notes)
    found, said = ask_of(tmp_path / "a.png", text_host)
    assert (found, said) == (ask, "")
    assert last(make(text_host, found)).samples[0].frames[0].tobytes() == sample.frames[0].tobytes()
    with pytest.raises(GenrefineError, match="of the other kind of model"):
        ask_of(tmp_path / "a.png", class_host)
    edited = last(make(text_host, ask, image=sample.frames[0], strength=0.5)).samples[0]
    save_png(edited.frames[0], tmp_path / "b.png", {**edited.notes, "model": "another"})
    assert ask_of(tmp_path / "b.png", text_host)[1] == "made by 'another'; an edit: its picture is not in the file"
    for notes in (
        {},
        {"settings": 3},
        {"settings": {}, "prompts": [], "seeds": []},
        {"settings": {}, "prompts": ["a"]},
    ):
        save_png(sample.frames[0], tmp_path / "c.png", notes)
        with pytest.raises(GenrefineError, match=r"settings in this picture cannot be read|other kind of model"):
            ask_of(tmp_path / "c.png", text_host)


def test_pictures_from_the_command_line_are_restored_too(text_host, tmp_path, monkeypatch):
    from genrefine.cli import main

    monkeypatch.chdir(tmp_path)
    text_host.pipeline.save_pretrained(tmp_path / "tiny")
    assert main(["generate", "dog", "--seed", "4", "--model", "tiny", "-o", "a.png"]) == 0
    ask, _ = ask_of("a.png", text_host)
    made = last(make(text_host, ask)).samples[0]
    with Image.open("a.png") as picture:
        assert made.frames[0].tobytes() == picture.tobytes()


def test_views_show_the_step_and_mark_a_position(text_host):
    step = list(inspect(text_host.pipeline, "dog", seed=1))[1]
    for show in (show_picture, show_fates, show_entropy):
        plain, marked = np.asarray(show(step)), np.asarray(show(step, (1, 2)))
        assert plain.shape == (320, 320, 3)
        changed = np.nonzero((plain != marked).any(2))
        assert (changed[0].min(), changed[0].max()) == (80, 159)
        assert (changed[1].min(), changed[1].max()) == (160, 239)
    assert position_at([239, 80], (320, 320), (4, 4)) == (1, 2)
    assert position_at([320, -3], (320, 320), (4, 4)) == (0, 3)
    assert f"entropy {step.mean_entropy:.3f}" in step_line(step)


def test_the_table_of_bits_says_what_was_drawn_and_how_likely_it_was(text_host):
    step = next(iter(inspect(text_host.pipeline, "dog", seed=1)))
    table = bits_table(step, (1, 2))
    assert table.count("<tr>") == 1 + 2
    assert "row 1, column 2" in table
    value = step.hbq.decode(step.codes[None])[0, 1, 0, 1, 2]
    assert f"<td>{float(value):+.3f}</td>" in table
    p, bit = float(step.bits(1, 2)[0, 0]), int(step.drawn(1, 2)[0, 0])
    assert f"<b>{bit}</b> <span>{p:.2f}</span>" in table
    sure = replace(step, probabilities=torch.stack([1.0 - step.codes.half(), step.codes.half()], dim=-1))
    assert "against" not in bits_table(sure, (1, 2))
    wrong = replace(step, probabilities=torch.stack([step.codes.half(), 1.0 - step.codes.half()], dim=-1))
    assert bits_table(wrong, (1, 2)).count("class='against'") == 4


def test_maps_are_light_where_little_is():
    image = np.asarray(heat(torch.tensor([[0.0, 0.5], [1.0, 2.0]])), dtype=int).sum(2)
    assert image[0, 0] > image[0, -1] > image[-1, 0] == image[-1, -1]
    grey, white = Image.new("L", (20, 20), 200), Image.new("L", (20, 20))
    white.paste(255, (0, 0, 10, 20))
    laid = np.asarray(overlay(Image.new("RGB", (20, 20), (0, 0, 255)), grey, white), dtype=int)
    assert laid[160, 40, 0] > laid[160, 280, 0] + 80
    a, b = Image.new("RGB", (4, 4), (10, 10, 10)), Image.new("RGB", (4, 4), (10, 10, 90))
    assert np.asarray(error_map(a, b), dtype=int).sum() < np.asarray(error_map(a, a), dtype=int).sum()


def test_runs_are_found_and_read(tmp_path):
    for name in ("one", "deep/two", "far/too/deep/three"):
        (tmp_path / name / "previews").mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert sorted(find_runs(tmp_path)) == ["deep/two", "one"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    (tmp_path / "out" / "metrics.jsonl").symlink_to("/etc/passwd")
    assert sorted(find_runs(tmp_path)) == ["deep/two", "one"], "links out of the folder are not followed"
    assert find_runs(None) == find_runs(tmp_path / "none") == []
    rows = [{"step": k, "loss": 1 / k, "loss_clips": 2.0, "loss_decile_0": 1 / k, "note": "x"} for k in range(1, 1001)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "one" / "metrics.jsonl").write_text(lines + '[3]\n{"step": 1001, "lo')
    read = read_metrics(tmp_path / "one")
    assert read == rows
    assert names_of(read, "loss") == ("loss", "loss_clips")
    plot = over_updates(read, ("loss", "loss_clips"))
    assert len(plot) <= 2 * 500
    assert plot["update"].iloc[-1] == 1000
    assert set(plot["what"]) == {"all", "clips"}
    signal = by_signal(read, "loss", over=10)
    assert signal["value"].tolist() == pytest.approx(
        [sum(1 / k for k in range(1, 11)) / 10, sum(1 / k for k in range(991, 1001)) / 10]
    )
    for step in (20, 3):
        Image.new("RGB", (2, 2)).save(tmp_path / "one" / "previews" / f"step-{step:07d}.png")
    (tmp_path / "one" / "previews" / "step-0000030.png").symlink_to("/etc/passwd")
    assert [update_of(path) for path in previews_of(tmp_path / "one")] == [3, 20]


def test_hosts_of_both_kinds_are_what_they_say(text_host, class_host):
    assert isinstance(text_host.pipeline, TextPipeline)
    assert isinstance(class_host.pipeline, ClassPipeline)
    assert class_host.prompt(replace(class_host.defaults(), what="")) is None
