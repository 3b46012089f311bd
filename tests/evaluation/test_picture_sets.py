"""Sets of pictures at hand, alone and in pairs, through the library and the command line."""

import shutil

import pytest
import torch
from PIL import Image

from genrefine.cli import main
from genrefine.data import ImageSource
from genrefine.errors import GenrefineError
from genrefine.evaluation.evaluate import evaluate_class_pipeline
from genrefine.evaluation.features import EfficientNetFeatures
from genrefine.evaluation.picture_sets import evaluate_pairs, evaluate_pictures, read_set
from genrefine.evaluation.statistics import Statistics, read_statistics
from tiny_models import tiny_pipeline


class Quarters:
    """Describe pictures by the mean colors of their quarters."""

    num_features = 12
    description = "quarters"

    def __call__(self, frames):
        return torch.nn.functional.adaptive_avg_pool2d(frames.float(), 2).flatten(1)


def write(folder, count=12, seed=0, shift=0):
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        level = int(torch.randint(200, (1,), generator=generator)) + shift
        place = folder / ("animals/noto" if index % 2 else "food/fluent")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (level, 255 - level, 40)).save(place / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return write(tmp_path_factory.mktemp("real") / "real", seed=1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, real):
    """Two folders of samples of one pipeline: 2 steps, and 3."""
    folder, pipe = tmp_path_factory.mktemp("kept"), tiny_pipeline()
    source = ImageSource(real, size=16, class_names=pipe.class_names)
    arguments = {"extractor": Quarters(), "progress": False}
    found = [
        evaluate_class_pipeline(pipe, source, 10, folder=folder / str(n), num_inference_steps=n, **arguments)
        for n in (2, 3)
    ]
    return folder / "2", folder / "3", found


def test_kept_samples_are_judged_as_when_they_were_drawn(kept, real):
    two, _, (found, _) = kept
    again = evaluate_pictures(read_set(two), ImageSource(real, size=16), extractor=Quarters(), progress=False)
    assert again.comparisons == found.comparisons
    assert again.manifold == found.manifold
    assert again.num_pictures == 10
    assert again.made_by["sampling"] == {"num_inference_steps": 2}


def test_pictures_of_files_are_judged_as_samples_are(kept, real, tmp_path):
    """The samples as PNG files are the same pictures, whoever made them."""
    two, _, (found, _) = kept
    pixels = read_set(two).source
    for index, one in enumerate(pixels):
        levels = ((one[:, 0] + 1) / 2 * 255).round().to(torch.uint8).permute(1, 2, 0)
        Image.fromarray(levels.numpy()).save(tmp_path / f"{index:02d}.png")
    again = evaluate_pictures(read_set(tmp_path), ImageSource(real, size=16), extractor=Quarters(), progress=False)
    assert again.comparisons == found.comparisons
    assert again.made_by == {}


def test_pairs_are_of_one_seed_and_say_what_differs(kept, real):
    two, three, (first, second) = kept
    found = evaluate_pairs(
        read_set(two), read_set(three), ImageSource(real, size=16), Quarters(), progress=False, num_resamplings=50
    )
    assert found.paired.num_pairs == 10
    assert found.names == ("2", "3")
    assert found.different == {"num_inference_steps": (2, 3)}
    assert found.frechet == (first.comparisons[0].frechet, second.comparisons[0].frechet)
    assert found.mean_evaluations == (first.mean_evaluations, second.mean_evaluations)
    same = evaluate_pairs(
        read_set(two), read_set(two), ImageSource(real, size=16), Quarters(), progress=False, num_resamplings=20
    )
    assert same.paired.difference.value == 0
    assert same.different == {}


def test_files_are_paired_by_their_names_whatever_else_is_there(real, tmp_path):
    ours, theirs = write(tmp_path / "ours", 12, 3), write(tmp_path / "theirs", 12, 3, shift=50)
    (ours / "food/fluent/0.png").unlink()
    shutil.copy(theirs / "food/fluent/2.png", theirs / "food/fluent/more.png")
    found = evaluate_pairs(
        read_set(ours), read_set(theirs), ImageSource(real, size=16), Quarters(), progress=False, num_resamplings=50
    )
    assert found.paired.num_pairs == 11
    assert found.paired.difference.low > 0, "brighter pictures are further from the real ones"
    with pytest.raises(GenrefineError, match=r"eight pictures of the same seed .* got 0 of 11 and 6"):
        evaluate_pairs(read_set(ours), read_set(theirs / "animals"), ImageSource(real, size=16), Quarters())


def test_more_pairs_than_can_be_held_are_cut_and_said(monkeypatch, kept, real):
    monkeypatch.setattr("genrefine.evaluation.picture_sets.MOST", 9)
    two, three, _ = kept
    found = evaluate_pairs(
        read_set(two), read_set(three), ImageSource(real, size=16), Quarters(), progress=False, num_resamplings=20
    )
    assert (found.paired.num_pairs, found.paired.num_pictures) == (9, 9)


def run(capfd, *words):
    capfd.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as end:  # argparse's way
        code = end.code
    out, err = capfd.readouterr()
    return code, out, err


def test_the_command_line_compares_pairs_and_says_who_is_nearer(capfd, kept, real, tmp_path):
    two, three, _ = kept
    code, out, err = run(capfd, "evaluate", "pairs", two, three, "--data", real, "--num-resamplings", 50)
    assert (code, err) == (0, "")
    assert "10 pairs beside 12 real pictures" in out
    assert "num_inference_steps: 2 and 3" in out
    assert "difference, second - first: " in out
    ours, theirs = write(tmp_path / "ours", 12, 3), write(tmp_path / "theirs", 12, 3)
    for index, path in enumerate(sorted(theirs.rglob("*.png"))):
        Image.effect_noise((16, 16), 90 + index).convert("RGB").save(path)
    code, out, err = run(capfd, "evaluate", "pairs", theirs, ours, "--data", real, "--num-resamplings", 50)
    assert out.rstrip().endswith("'ours' is nearer")
    code, out, err = run(capfd, "evaluate", "pairs", ours, ours, "--data", real, "--num-resamplings", 50)
    assert out.rstrip().endswith("no difference beyond chance")


def test_statistics_are_written_and_compared_with(capfd, kept, real, tmp_path):
    file = tmp_path / "real.npz"
    code, out, _ = run(capfd, "evaluate", "statistics", "--data", real, "-o", file)
    assert (code, "12 pictures" in out) == (0, True)
    statistics = read_statistics(file)
    assert statistics.extractor == EfficientNetFeatures().description
    code, out, _ = run(capfd, "evaluate", "pictures", real, "--reference", file)
    assert code == 0
    assert "Frechet distance -0.000 of 12 samples to 'real.npz'" in out or "Frechet distance 0.000" in out
    code, out, err = run(capfd, "evaluate", "pictures", real, "--reference", file, "--extractor-size", 64)
    assert (code, out) == (2, "")
    assert "must be described by one network" in err


def test_statistics_of_other_features_are_refused_before_a_sample_is_drawn(tmp_path):
    other = Statistics(torch.zeros(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64))
    with pytest.raises(GenrefineError, match="statistics are of 5 features of a network that is not named"):
        evaluate_class_pipeline(
            tiny_pipeline(), None, 10, extractor=Quarters(), folder=tmp_path / "kept", reference=other, progress=False
        )
    assert not (tmp_path / "kept").exists()


def test_a_reference_alone_is_enough_for_samples(capfd, real, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "m")
    run(capfd, "evaluate", "statistics", "--data", real, "-o", tmp_path / "real.npz")
    words = ["evaluate", "samples", "--model", tmp_path / "m", "--num-samples", 12, "--num-inference-steps", 2]
    code, out, err = run(capfd, *words, "--reference", tmp_path / "real.npz", "--json", tmp_path / "did.json")
    assert (code, err) == (0, "")
    assert "of 12 samples to 'real.npz'" in out
    assert (tmp_path / "did.json").read_text().count('"frechet"') == 1
    assert all(f'"{name}": 2' in (tmp_path / "did.json").read_text() for name in tiny_pipeline().class_names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pictures", "here"], "give --data SOURCE, or --reference FILE, or both"),
        (["pictures", "nowhere", "--data", "here"], "nowhere"),
        (["pictures", "few", "--data", "here"], "eight pictures and eight held-out ones; got 3 and 12"),
        (["pictures", "here", "--reference", "nothing.npz"], "'nothing.npz' must hold mean and covariance"),
        (["pairs", "here", "--data", "here"], "required: SECOND"),
        (["pairs", "here", "kept", "--data", "here"], "number 0 is missing"),
        (["statistics", "--data", "here", "-o", "here"], "here"),
        (["samples", "--num-samples", "9"], "give --data SOURCE or --reference FILE, or both"),
        (["samples", "--reference", "r.npz", "--training-split", "train"], "give --data with it"),
    ],
)
def test_wrong_requests_end_in_one_line_and_code_2(capfd, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "here")
    write(tmp_path / "few", 3)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "run.json").write_text("{}")
    code, out, err = run(capfd, "evaluate", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
