"""Text refiners through their preset: stills, clips and shapes become a pipeline, and wrong requests one line."""

import io
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrefine import ClassPipeline, GenrefineError, TextPipeline, VisualTokenizer, presets
from genrefine.experiments.sources import load_tokenizer, open_source
from genrefine.experiments.text_samples import TextPart, open_parts
from genrefine.training.mixture import MixtureBatches
from genrefine.training.order import EndlessBatches
from tiny_models import tiny_clip_tokenizer, tiny_text_encoder
from two_processes import in_two_processes

NAMES = ["red heart", "blue heart", "dog", "rocket", "flag of japan", "pizza"]
SHAPES = [(20, 20), (20, 20), (30, 15), (15, 30), (20, 21), (32, 16)]  # height, width


def write(folder: Path, name: str, frames: np.ndarray, row: dict[str, object]) -> None:
    folder.mkdir(exist_ok=True)
    first, *rest = [Image.fromarray(frame) for frame in frames]
    content = io.BytesIO()
    first.save(content, name.rpartition(".")[2], **({"save_all": True, "append_images": rest} if rest else {}))
    (folder / name).write_bytes(content.getvalue())
    with (folder / "metadata.jsonl").open("a") as stream:
        stream.write(json.dumps({"file_name": name, **row}) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six captioned pictures of three shapes, three films, a tokenizer and a text encoder."""
    folder, draws = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    for number, (name, shape) in enumerate(zip(NAMES, SHAPES, strict=True)):
        row = {"text": [f"a {name}", name], "thing": name.split()[-1], "class_name": "abc"[number % 3]}
        write(folder / "pictures", f"{number}.png", draws.integers(0, 256, (1, *shape, 3), dtype=np.uint8), row)
        if number < 3:
            write(folder / "films", f"{number}.webp", draws.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8), row)
    tiny_clip_tokenizer().save_pretrained(folder / "tokenizer")
    for part in tiny_text_encoder():
        part.save_pretrained(folder / "encoder")
    return folder


def request(place: Path, **changes: str) -> dict[str, str]:
    """Return the settings of a tiny run on stills and clips; dots in names are written ``__``."""
    words = {
        "data.source": str(place / "pictures"), "data.size": "16",
        "clips.source": str(place / "films"), "clips.size": "16", "clips.num_frames": "5", "clips.share": "0.5",
        "tokenizer": str(place / "tokenizer"), "text_encoder": str(place / "encoder"),
        "refiner.width": "24", "refiner.depth": "1", "refiner.num_heads": "2", "refiner.mlp_width": "32",
        "sampler.num_inference_steps": "2", "training.num_steps": "4", "training.batch_size": "4",
        "training.decay": "constant", "training.compile": "false", "training.mixed_precision": "no",
        "training.save_every": "2", "training.log_every": "1",
    }  # fmt: skip
    return {**words, **{name.replace("__", "."): value for name, value in changes.items()}}


def run(place: Path, out: Path, **changes: str) -> Path:
    return presets.get("small-text", request(place, **changes)).run(out)


def parts_of(place: Path, out: Path, **changes: str) -> list[TextPart]:
    settings = presets.get("small-text", request(place, **changes)).settings
    return open_parts(settings, load_tokenizer(settings.tokenizer), out)


@pytest.fixture(scope="module")
def trained(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(place, tmp_path_factory.mktemp("runs") / "run")


def test_stills_and_clips_become_one_pipeline(trained: Path) -> None:
    pipe = TextPipeline.from_pretrained(trained)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red heart", seed=1).images[0].size == (16, 16)
    assert len(pipe("a dog", seed=1, num_frames=5).frames[0]) == 5
    lines = [json.loads(line) for line in (trained.parent / "metrics.jsonl").read_text().splitlines()]
    assert [("loss_stills" in line, "loss_clips" in line) for line in lines] == [(True, False), (False, True)] * 2
    assert json.loads((trained.parent / "run.json").read_text())["preset"] == "small-text"
    assert (trained.parent / "previews" / "step-0000004.png").is_file()


def test_a_run_in_two_parts_gives_the_weights_of_an_uninterrupted_one(
    place: Path, trained: Path, tmp_path: Path
) -> None:
    run(place, tmp_path / "run", training__num_steps="2")
    half = TextPipeline.from_pretrained(tmp_path / "run" / "pipeline").refiner.state_dict()
    run(place, tmp_path / "run")
    whole = TextPipeline.from_pretrained(trained).refiner.state_dict()
    parts = TextPipeline.from_pretrained(tmp_path / "run" / "pipeline").refiner.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(half[name], parts[name]) for name in half)


def test_every_shape_has_a_store_of_its_own_codes(place: Path, tmp_path: Path) -> None:
    parts = parts_of(place, tmp_path / "run", data__buckets="2,1,0.5")
    assert {part.name: list(part.source.names) for part in parts} == {
        "stills_24x12": ["2.png", "5.png"],
        "stills_16x16": ["0.png", "1.png", "4.png"],
        "stills_12x24": ["3.png"],
        "clips": ["0.webp", "1.webp", "2.webp"],
    }
    tokenizer = VisualTokenizer.from_pretrained(place / "tokenizer")
    for part in parts:
        for item in range(len(part.source)):
            assert torch.equal(part.store[item][0], tokenizer.encode(part.source[item][0][None])[0])
    assert {path.name for path in (tmp_path / "run-codes").iterdir()} == {"24x12", "16x16", "12x24"}


@pytest.mark.parametrize("balance", ["", "thing"])
def test_every_still_of_every_shape_is_seen_equally_often(place: Path, tmp_path: Path, balance: str) -> None:
    changes = {"data__buckets": "2,1,0.5", "data__balance": balance, "training__batch_size": "32"}
    *stills, clips = parts_of(place, tmp_path / "run", **changes)
    assert clips.share == pytest.approx(0.5)
    assert sum(part.share for part in stills) == pytest.approx(0.5)
    for part in stills:
        # a still of a bucket comes up with share x batch / number; groups count as one
        number = len(part.groups) if part.groups is not None else len(part.source)
        rate = part.share * part.batch_size / number
        assert rate == pytest.approx(stills[0].share * stills[0].batch_size / len(stills[0].source), rel=1e-6)
        tokens = torch.tensor(part.store.code_shape[1:]).prod() * part.batch_size
        assert tokens == pytest.approx(32 * 16, rel=0.1)
    squares = next(part for part in stills if part.name == "stills_16x16")
    assert squares.groups == ([[0, 1], [2]] if balance else None)  # two hearts take turns


def test_a_run_on_three_shapes_makes_all_of_them_and_resumes(place: Path, tmp_path: Path) -> None:
    shapes = {"data__buckets": "2,1,0.5", "clips__source": "", "training__log_every": "1"}
    run(place, tmp_path / "parts", **shapes, training__num_steps="2")
    run(place, tmp_path / "parts", **shapes)
    folder = run(place, tmp_path / "whole", **shapes)
    weights = [TextPipeline.from_pretrained(tmp_path / n / "pipeline").refiner.state_dict() for n in ("parts", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    seen = {key for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)}
    assert {"loss_stills_24x12", "loss_stills_16x16", "loss_stills_12x24"} <= seen
    pipe = TextPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("dog", seed=1).images[0].size == (16, 16)  # most stills are squares
    assert pipe("dog", seed=1, height=24, width=12).images[0].size == (12, 24)


def test_mirror_images_share_captions_and_turns(place: Path, tmp_path: Path) -> None:
    stills, clips = parts_of(place, tmp_path / "run", flip="true", data__balance="thing")
    assert (stills.store.views, len(stills.store), len(clips.store)) == (2, 12, 6)
    assert stills.groups is not None
    assert stills.groups[0] == [0, 1, 2, 3]  # red and blue heart and their mirror images
    assert clips.groups is None
    order = EndlessBatches(stills.groups, len(stills.groups), seed=0)
    visits = [item for epoch in islice(order, 4) for item in epoch]
    assert sorted(item for item in visits if item < 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("codes", ["pixels", "store"])
def test_pictures_that_agree_take_turns_in_class_runs(
    place: Path, tmp_path: Path, codes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genrefine.training.refiner_task import ClassRefinerTask

    seen: list[int] = []
    updates = ClassRefinerTask.updates

    def counting(self: ClassRefinerTask, networks: object, batch: list[torch.Tensor], generator: object) -> object:
        seen.extend(batch[1].tolist())
        return updates(self, networks, batch, generator)

    monkeypatch.setattr(ClassRefinerTask, "updates", counting)
    keep = ("data.source", "data.size", "tokenizer", "refiner.width", "refiner.depth", "refiner.num_heads",
            "sampler.num_inference_steps", "training.compile", "training.mixed_precision")  # fmt: skip
    settings = {name: value for name, value in request(place).items() if name in keep}
    settings |= {"codes": codes, "flip": "false", "data.balance": "class_name", "refiner.bottleneck": "8"}
    settings |= {"training.batch_size": "3", "training.num_steps": "3"}
    folder = presets.get("small-class", settings).run(tmp_path / "run")
    assert ClassPipeline.from_pretrained(folder).class_names == ["a", "b", "c"]
    assert [sorted(seen[start : start + 3]) for start in (0, 3, 6)] == [[0, 1, 2]] * 3  # a batch is an epoch


def test_codes_of_other_pictures_sizes_or_views_are_refused(place: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parents[1] / "run-codes", tmp_path / "run-codes")
    changes = [
        ({"data__only": "thing=dog"}, "of other pictures than"),
        ({"data__size": "32"}, "with other size than data"),
        ({"flip": "true"}, "with other mirror images than"),
        ({"data__label_column": "thing"}, r"of another class \("),
    ]
    for change, message in changes:
        with pytest.raises(GenrefineError, match=message):
            parts_of(place, tmp_path / "run", **change)
    assert len(parts_of(place, tmp_path / "run")) == 2


def test_texts_of_other_captions_are_refused_and_an_unfinished_store_is_made_anew(
    place: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained.parents[1] / "run-text", tmp_path / "run-text")
    with pytest.raises(GenrefineError, match="was made with another captions"):
        run(place, tmp_path / "run", clips__source="", data__caption_column="thing")
    (tmp_path / "new-text").mkdir()
    (tmp_path / "new-text" / ".writing-1").write_text("killed")
    run(place, tmp_path / "new", clips__source="", training__num_steps="1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__source": "", "clips__source": ""}, "data.source or clips.source must name"),
        ({"text_encoder": ""}, "text_encoder must be the folder or hub name"),
        ({"text_encoder": "{place}/films"}, "no text encoder at"),
        ({"tokenizer": "{place}/nowhere"}, "folder of a trained tokenizer"),
        ({"data__caption_column": ""}, "data.caption_column must name the column"),
        ({"clips__caption_column": ""}, "clips.caption_column must name the column"),
        ({"data__caption_column": "words"}, "no column 'words'; the data set has"),
        ({"clips__caption_column": "words"}, "no column 'words'"),
        ({"data__balance": "thing,weight"}, "no column 'weight'"),
        ({"data__size": "18"}, "height must be a multiple of 4; got 18"),
        ({"clips__num_frames": "4"}, r"frames must be 1 \+ 2k; got 4"),
        ({"data__buckets": "tall"}, "data.buckets must be aspect ratios such as 0.5,1,2 or 'published'; got 'tall'"),
        ({"data__buckets": "0,1"}, "aspect ratios, height over width, must be more than 0; got 0"),
        ({"data__buckets": ","}, "at least one bucket"),
        ({"data__source": "", "data__buckets": "1"}, "data.buckets sorts pictures; got '1' without data.source"),
        ({"clips__batch_size": "3", "training__gradient_accumulation": "2"}, "clips.batch_size must be a multiple"),
        ({"clips__share": "1"}, "clips.share must be above 0 and below 1; got 1"),
        ({"clips__batch_size": "-1"}, "must be at least 0"),
        ({"refiner__attention": "prefix"}, "prefix attention takes no first frame"),
        ({"loss__caption_dropout": "2"}, "loss.caption_dropout must be at least 0 and at most 1"),
    ],
)
def test_wrong_requests_are_one_line(place: Path, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(GenrefineError, match=message) as caught:
        run(place, tmp_path / "run", **{name: value.format(place=place) for name, value in changes.items()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["small-tokenizer", "small-class"])
def test_shapes_are_for_text_refiners(name: str, tmp_path: Path) -> None:
    with pytest.raises(GenrefineError, match=r"data.buckets must be empty but for text refiners; got '1,2'"):
        presets.get(name, {"data.buckets": "1,2"}).run(tmp_path / "run")


def test_published_shapes_are_those_of_the_released_models() -> None:
    data = presets.get("small-text", {"data.buckets": "published"}).settings.data
    assert len(data.aspect_ratios()) == 15


def test_a_tokenizer_of_stills_and_clips_mixes_them_by_share(place: Path, tmp_path: Path) -> None:
    settings = {name: value for name, value in request(place).items() if name.startswith(("data.", "clips."))}
    settings |= {"tokenizer.encoder_width": "4", "tokenizer.decoder_width": "4", "tokenizer.latent_dim": "2",
                 "tokenizer.rounds": "2", "tokenizer.channel_multipliers": "1,1", "loss.rounds": "2",
                 "tokenizer.temporal_downsample": "True", "training.num_steps": "4", "training.batch_size": "4",
                 "training.compile": "false", "training.mixed_precision": "no", "training.log_every": "1",
                 "data.balance": "thing"}  # fmt: skip
    folder = presets.get("small-tokenizer", settings).run(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ["psnr_clips" in line for line in lines] == [False, True, False, True]
    assert VisualTokenizer.from_pretrained(folder).temporal_stride == 2
    wrong = {**settings, "clips.batch_size": "3", "training.gradient_accumulation": "2"}
    with pytest.raises(GenrefineError, match=r"clips.batch_size must be a multiple"):
        presets.get("small-tokenizer", wrong).run(tmp_path / "wrong")


def test_clips_too_few_for_the_processes_are_refused(place: Path, tmp_path: Path) -> None:
    parts = parts_of(place, tmp_path / "run", clips__batch_size="1")
    from genrefine.training.mixture import Kind

    kinds = [Kind(part.name, len(part.store), part.batch_size, part.share) for part in parts]
    with pytest.raises(GenrefineError, match="a batch of clips must be a multiple of the 2 processes; got 1"):
        MixtureBatches(kinds, seed=0, num_processes=2)


def test_two_processes_train_one_pipeline_on_stills_and_clips(place: Path, tmp_path: Path) -> None:
    words = [f"{name}={value}" for name, value in request(place).items()]
    verb = ["-m", "genrefine.cli", "train", "small-text", "--out", tmp_path / "run", "--set"]
    answer = in_two_processes(*verb, *words)
    assert answer.returncode == 0, answer.stderr
    pipe = TextPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe("a dog", seed=1, num_frames=5).frames[0]) == 5
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [("loss_stills" in line, "loss_clips" in line) for line in lines] == [(True, False), (False, True)] * 2


def test_previews_show_what_is_held_out(place: Path, tmp_path: Path) -> None:
    for kind in ("pictures", "films"):
        shutil.copytree(place / kind, tmp_path / kind / "train")
        shutil.copytree(place / kind, tmp_path / kind / "held")
        rows = (tmp_path / kind / "held" / "metadata.jsonl").read_text().splitlines()
        (tmp_path / kind / "held" / "metadata.jsonl").write_text("\n".join(rows[:2]))
    changes = {"data__source": str(tmp_path / "pictures"), "clips__source": str(tmp_path / "films")}
    changes |= {"data__split": "train", "clips__split": "train", "training__num_steps": "1"}
    sheets = []
    for name, held in (("a", {}), ("b", {"data__heldout": "held"}), ("c", {"clips__heldout": "held"})):
        run(place, tmp_path / name, **changes, **held)
        sheets.append(np.asarray(Image.open(tmp_path / name / "previews" / "step-0000001.png")))
    # Two stills in place of six in the first row; two clips and their two continuations in place of three and three.
    assert sheets[0].shape == sheets[1].shape
    assert not np.array_equal(sheets[0], sheets[1])
    assert sheets[2].shape[0] < sheets[0].shape[0]


def test_broken_pictures_are_named_or_skipped(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures" / "5.png").write_bytes(b"no picture")
    changes = {"data__source": str(tmp_path / "pictures"), "data__buckets": "2,1,0.5", "clips__source": ""}
    with pytest.raises(GenrefineError, match=r"cannot read picture '5.png'"):
        parts_of(place, tmp_path / "run", **changes)
    parts = parts_of(place, tmp_path / "run", **changes, data__on_error="skip")
    assert sum(len(part.source) for part in parts) == 5
    settings = presets.get("small-text", request(place)).settings
    assert len(open_source(settings.data)) == 6


def test_prompts_that_a_model_knows_are_saved_with_it(trained: Path) -> None:
    assert (trained / "prompts.txt").read_text().splitlines() == [f"a {name}" for name in NAMES]
