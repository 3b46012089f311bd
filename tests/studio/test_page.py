"""The page in a real browser: typed, clicked, dragged, dropped, stopped, loaded anew, made narrow."""

import json
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from genrefine import TextPipeline
from genrefine.media.writing import read_png_metadata

REQUESTS = int(os.environ.get("GENREFINE_STUDIO_REQUESTS", "24"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run = folder / "first"
    (run / "previews").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    rows = [{"step": step, "loss": 1 / step, "accuracy": 0.5, "loss_decile_3": 0.4} for step in range(1, 30)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (10, 20):
        Image.new("RGB", (32, 32), (step * 10, 0, 0)).save(run / "previews" / f"step-{step:07d}.png")
    return folder


@pytest.fixture(scope="module")
def studio(serve, texts, runs):
    return serve(texts, "--runs", str(runs), "--max-steps", "4000", "--max-upload-megabytes", "1")


@pytest.fixture(scope="module")
def pipe(texts):
    loaded = TextPipeline.from_pretrained(texts)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def made(one, button="#make-go"):
    """Press a button of Make and wait for what it makes."""
    one.forget("make-line")
    one.page.locator(button).click()
    return one.says("make-line", " made in ")


def upload(one, file):
    with one.page.expect_file_chooser() as coming:
        one.page.locator("#make-restore").click()
    coming.value.set_files(str(file))


def download(one, place):
    with one.page.expect_download() as coming:
        one.page.locator(f"#{place}").click()
    file = Path(tempfile.mkdtemp()) / coming.value.suggested_filename
    coming.value.save_as(file)
    return file


def test_the_page_opens_with_a_picture_and_every_tab_opens(studio, look):
    one = look(studio.url)
    assert one.page.locator("#make-preview img").get_attribute("src")
    for name in ("Edit", "Look inside", "Codes", "Clips", "Train", "Make"):
        one.tab(name)
        one.page.get_by_role("tabpanel").locator("visible=true").first.wait_for()
    assert "127.0.0.1" in studio.log.read_text()


def test_what_is_made_is_the_pipelines_own_and_can_be_made_again_varied_kept_and_restored(studio, look, pipe, tmp_path):
    one = look(studio.url)
    page = one.page
    page.get_by_label("Prompt", exact=True).first.fill("pizza")
    page.locator(".gallery-item, tr.tr-body").first.click()  # the card's example: "a red heart", in its style
    page.wait_for_function("() => document.querySelector('textarea, input[type=text]').value === 'red heart'")
    page.get_by_label("Prompt", exact=True).first.fill("dog")
    page.get_by_label("Seed").first.fill("7")
    made(one)
    assert "a dog" in one.says("make-details", "a dog")
    first = download(one, "make-download")
    notes = read_png_metadata(first)
    own = pipe("a dog", seed=7, adaptive=True)
    with Image.open(first) as picture:
        assert picture.tobytes() == own.images[0].tobytes()
    assert notes["settings"] == own.settings
    assert (notes["prompts"], notes["num_steps"], notes["entropy"]) == (["a dog"], own.num_steps, own.entropy)
    made(one, "#make-again")
    again = download(one, "make-download")
    with Image.open(again) as picture:
        assert picture.tobytes() == own.images[0].tobytes()
    one.forget("make-line")
    page.locator("#make-vary").click()
    one.says("make-line", "4 made in")
    assert page.locator("#make-gallery .thumbnail-item").count() == 7  # the opening one, two, and four
    one.says("make-details", "from another picture")
    page.get_by_label("Prompt", exact=True).first.fill("something else")
    upload(one, first)
    one.says("make-line", "settings restored")
    assert page.get_by_label("Prompt", exact=True).first.input_value() == "a dog"
    assert page.get_by_label("Seed").first.input_value() == "7"
    bare = tmp_path / "bare.png"
    Image.new("RGB", (8, 8)).save(bare)
    upload(one, bare)
    assert "was not written by genrefine" in one.refusal()


def test_a_request_is_stopped_and_the_next_one_is_made(studio, look):
    one = look(studio.url)
    page = one.page
    page.get_by_label("fixed", exact=True).first.check()
    page.get_by_label("number input for Steps").first.fill("4000")
    page.get_by_label("number input for Steps").first.blur()
    page.locator("#make-go").click()
    one.says("make-line", "step ")
    page.locator("#make-stop").click()
    one.says("make-line", "stopped")
    page.wait_for_timeout(700)
    assert "stopped" in page.locator("#make-line").inner_text()
    page.get_by_label("number input for Steps").first.fill("2")
    page.get_by_label("number input for Steps").first.blur()
    made(one)
    assert "2 (fixed)" in one.says("make-details", "(fixed)")


def paint(one):
    """Paint over the left third of the picture in the editor."""
    box = one.page.locator("#edit-editor canvas").first.bounding_box()
    middle, top = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    one.page.mouse.move(middle - 90, top - 40)
    one.page.mouse.down()
    one.page.mouse.move(middle - 90, top + 60, steps=6)
    one.page.mouse.up()
    one.page.wait_for_timeout(600)


def test_a_picture_is_edited_where_it_is_painted(studio, look, tmp_path):
    one = look(studio.url)
    page = one.page
    one.tab("Edit")
    page.locator("#edit-editor canvas").first.wait_for()
    page.locator("#edit-go").click()
    assert "nothing is painted, so nothing would change" in one.refusal()
    levels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).resize((60, 60), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "mine.png")
    page.locator("#edit-drop input[type=file]").set_input_files(str(tmp_path / "mine.png"))
    one.says("edit-line", "60 x 60 pixels")
    page.wait_for_timeout(1500)
    paint(one)
    page.locator("#edit-go").click()
    one.says("edit-line", " made in ")
    file = download(one, "edit-download")
    with Image.open(file) as result:
        assert result.size == (60, 60)
        same = (np.asarray(result) == np.asarray(picture)).all(2)
    assert same[:, -15:].all(), "far from what was painted the picture is its own"
    assert not same[25:35, 10:20].any()
    assert read_png_metadata(file)["settings"]["strength"] == 1.0
    assert page.locator("#edit-slider img").count() == 2
    page.locator("#edit-onward").click()
    one.says("edit-line", "the result is the picture now")


def test_the_model_finds_what_a_prompt_would_change(studio, look):
    one = look(studio.url)
    page = one.page
    one.tab("Edit")
    page.get_by_label("what the prompt changes").check()
    page.get_by_label("It shows now").first.wait_for()
    page.locator("#edit-look").click()
    assert "both say the same" in one.refusal()
    page.get_by_label("Prompt", exact=True).locator("visible=true").first.fill("pizza")
    page.locator("#edit-look").click()
    one.says("edit-line", "nats per code")
    before = page.locator("#edit-map img").get_attribute("src")
    share = page.locator("#edit-share input[type=range]")
    share.focus()
    share.press("Home")
    page.wait_for_function("before => document.querySelector('#edit-map img').src !== before", arg=before)
    page.locator("#edit-go").click()
    one.says("edit-line", " made in ")


def test_two_runs_are_looked_at_step_by_step_and_bit_by_bit(studio, look, pipe):
    one = look(studio.url)
    page = one.page
    one.tab("Look inside")
    page.get_by_role("tab", name="Run B").click()
    page.locator("#look-both input").check()
    page.get_by_label("fixed", exact=True).locator("visible=true").first.check()
    page.get_by_label("number input for Steps").locator("visible=true").first.fill("3")
    page.get_by_label("number input for Steps").locator("visible=true").first.blur()
    page.locator("#look-go").click()
    said = one.says("look-line", "run B: 3 steps")
    own = pipe("a red heart", seed=0, adaptive=True)
    assert f"run A: {own.num_steps[0]} steps, {own.num_evaluations[0]} evaluations" in said
    one.says("look-line-B", "step 3 of 3")
    picture = page.locator("#look-A-mind img")
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.1})
    assert "row 0, column 3" in one.says("look-bits-A", "Codes at")
    one.says("look-bits-B", "row 0, column 3")
    assert page.locator("#look-bits-A tbody tr").count() == 2
    last = page.locator("#look-bits-A").inner_text()
    slider = page.locator("#look-step input[type=range]")
    slider.focus()
    slider.press("Home")
    one.says("look-line-A", "step 1 of")
    page.wait_for_function("last => document.querySelector('#look-bits-A').innerText !== last", arg=last)
    assert page.locator("#look-plot svg, #look-plot canvas").count() >= 1


def test_codes_show_what_every_round_holds(studio, look, tmp_path):
    one = look(studio.url)
    page = one.page
    one.tab("Codes")
    Image.effect_noise((50, 37), 80).convert("RGB").save(tmp_path / "noise.png")
    page.locator("#codes-drop input[type=file]").set_input_files(str(tmp_path / "noise.png"))
    one.says("codes-facts", "16 x 16 pixels")
    page.get_by_label("its own size").check()
    one.says("codes-facts", "52 x 40 pixels")
    rounds = page.locator("#codes-rounds input[type=range]")
    rounds.focus()
    rounds.press("End")
    one.says("codes-facts", "at most 0.00390625")
    flip = page.locator("#codes-flip input[type=range]")
    flip.focus()
    flip.press("ArrowRight")
    one.says("codes-facts", "round 1 of all channels")


@pytest.mark.parametrize("kind", ["no picture", "bomb", "too many bytes"])
def test_what_is_no_picture_is_refused_in_one_line(studio, look, tmp_path, kind):
    one = look(studio.url)
    one.tab("Codes")
    file = tmp_path / "mine.png"
    if kind == "no picture":
        file.write_bytes(b"no picture at all")
    elif kind == "bomb":
        Image.new("1", (30000, 30000)).save(file)
    else:
        levels = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
        Image.fromarray(levels).save(file)
        assert file.stat().st_size > 10**6
    one.page.locator("#codes-drop input[type=file]").set_input_files(str(file))
    words = one.refusal()
    expected = {"no picture": "cannot read picture", "bomb": "pixels", "too many bytes": "size"}[kind]
    assert expected in words.lower()
    assert str(tmp_path) not in words
    assert "/tmp" not in words
    if kind == "too many bytes":
        one.errors.clear()  # the browser itself notes the status 413 of the upload


def test_a_clip_is_made_played_and_looked_at(studio, look, pipe):
    one = look(studio.url)
    page = one.page
    one.tab("Clips")
    page.locator("#clips-take").click()
    one.says("clips-line", "begins with this picture")
    page.locator("#clips-go").click()
    one.says("clips-line", "frames in")
    assert page.locator("#clips-video video").get_attribute("src")
    page.wait_for_function("() => document.querySelector('#clips-video video').readyState >= 2")
    before = page.locator("#clips-frame img").get_attribute("src")
    slider = page.locator("#clips-scrub input[type=range]")
    slider.focus()
    slider.press("End")
    page.wait_for_function("before => document.querySelector('#clips-frame img').src !== before", arg=before)


def test_training_is_watched_live(studio, look, runs):
    one = look(studio.url)
    page = one.page
    one.tab("Train")
    one.says("train-line", "update 29")
    with (runs / "first" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, "loss": 0.01, "accuracy": 0.9}) + "\n")
    one.says("train-line", "update 30", seconds=20)
    before = page.locator("#train-preview img").get_attribute("src")
    slider = page.locator("#train-which input[type=range]")
    slider.focus()
    slider.press("Home")
    page.wait_for_function("before => document.querySelector('#train-preview img').src !== before", arg=before)


def test_it_can_be_loaded_anew_made_narrow_and_used_by_keyboard(studio, look):
    one = look(studio.url)
    page = one.page
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    page.get_by_role("tab", name="Make", exact=True).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_label("Prompt", exact=True).first.fill("dog")
    page.get_by_label("Prompt", exact=True).first.press("Enter")
    one.says("make-line", " made in ")
    page.get_by_role("tab", name="Make", exact=True).first.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") != "BODY"


def test_eight_people_at_once_get_the_pictures_of_their_seeds(studio, look, pipe):
    looks = [look(studio.url) for _ in range(8)]
    for seed, one in enumerate(looks):
        one.page.get_by_label("Seed").first.fill(str(seed % 4))
        one.page.get_by_label("Seed").first.blur()
    for one in looks:
        one.page.locator("#make-go").click()
    files = []
    for one in looks:
        one.says("make-line", " made in ", seconds=150)
        files.append(download(one, "make-download"))
    for seed, file in enumerate(files):
        with Image.open(file) as picture:
            assert picture.tobytes() == pipe("a red heart", seed=seed % 4, adaptive=True).images[0].tobytes()


def test_memory_stays_flat(studio, look):
    one = look(studio.url)
    page, process = one.page, psutil.Process(studio.process.pid)
    page.get_by_label("fixed", exact=True).first.check()
    page.get_by_label("number input for Steps").first.fill("1")
    page.get_by_label("number input for Steps").first.blur()

    def requests(count):
        for _ in range(count):
            made(one)
        return process.memory_info().rss / 1e6

    warm = requests(8)
    assert requests(REQUESTS) - warm < 40


def test_nothing_but_the_page_is_served(studio, look):
    one = look(studio.url)
    config = one.page.request.get(studio.url + "/config").json()
    drops = [part["id"] for part in config["components"] if part["props"].get("elem_id") == "codes-drop"]
    (number,) = [one["id"] for one in config["dependencies"] if [drops[0], "upload"] in one["targets"]]
    file = {"path": str(studio.folder / "model_index.json"), "meta": {"_type": "gradio.FileData"}}
    given = {"fn_index": number, "session_hash": "x", "data": [file, 3, 0, "all channels", "the model's size"]}
    assert one.page.request.post(studio.url + "/gradio_api/queue/join", data=given).ok
    said = one.page.request.get(studio.url + "/gradio_api/queue/data?session_hash=x").text()
    assert '"success":false' in said
    assert "model_index" not in said
    for path in ("/gradio_api/file=/etc/passwd", f"/gradio_api/file={studio.folder}/model_index.json"):
        assert one.page.request.get(studio.url + path).status in (403, 404)
    assert one.page.request.get(studio.url + "/gradio_api/info").json()["named_endpoints"] == {}


def test_a_model_of_classes_has_its_own_controls_and_ctrl_c_ends(serve, classes, look):
    studio = serve(classes)
    one = look(studio.url)
    page = one.page
    assert page.get_by_role("tab", name="Clips").count() == 0
    page.get_by_label("Class").first.click()
    page.get_by_role("option", name="flags/noto").first.click()
    made(one)
    one.says("make-details", "flags/noto")
    studio.process.send_signal(signal.SIGINT)
    assert studio.process.wait(timeout=60) == 130
    assert studio.log.read_text().endswith("genrefine studio: interrupted\n")
    one.errors.clear()  # the page notes that its server has gone
