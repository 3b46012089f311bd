"""Laws of `genrefine evaluate`."""

import shutil

import pytest
import torch

from reading import read_json


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """Return a feature network as a file: mean color of the quarters of a 32 x 32 picture."""
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    path = tmp_path_factory.mktemp("extractor") / "quarters.pt2"
    torch.export.save(program, path)
    return path


def test_a_tokenizer_is_measured_at_every_rate(genrefine, model, pictures):
    words = ["--data", pictures, "--split", "test", "--rounds", 1, 3, "--json", "did.json"]
    answer = genrefine("evaluate", "tokenizer", "--model", model, *words)
    assert (answer.code, answer.err) == (0, "")
    did = read_json("did.json")
    assert did["num_pictures"] == 8
    assert [rate["rounds"] for rate in did["rates"]] == [1, 3]
    assert f"PSNR {did['psnr']:.2f} dB" in answer.out
    assert answer.out.count("M = ") == 2


def test_samples_are_compared_with_held_out_pictures(genrefine, model, pictures, extractor):
    words = ["--data", pictures, "--split", "test", "--training-split", "train", "--num-samples", 8]
    words += ["--extractor", extractor, "--extractor-size", 32, "--num-inference-steps", 3, "--samples", "kept"]
    class_words = ["--keep", "class_name=animals/noto", "class_name=food/fluent"]
    answer = genrefine("evaluate", "samples", "--model", model, *words, *class_words, "--json", "did.json")
    assert (answer.code, answer.err) == (0, "")
    did = read_json("did.json")
    assert did["labels"] == {"animals/noto": 4, "food/fluent": 4}
    assert did["mean_steps"] == 3
    assert did["extractor"] == "quarters.pt2, 12 features, 32 px"
    assert did["sampling"] == {"num_inference_steps": 3}
    assert did["memorization"] is not None
    assert f"kernel distance {did['comparisons'][0]['kernel']['mean']:.4f}" in answer.out
    again = genrefine("evaluate", "samples", "--model", model, *words, *class_words)
    assert again.out == answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tokenizer", "--data", "empty"], "no pictures in 'empty'"),
        (["tokenizer", "--data", "set", "--rounds", "0"], "rounds"),
        (["tokenizer", "--data", "set", "--size", "10"], "multiple of 4"),
        (["tokenizer", "--data", "set", "--json", "file/a.json"], "cannot write"),
        (["samples", "--data", "set", "--samples", "file/kept"], "cannot write"),
        (["samples", "--data", "set", "--num-samples", "1"], "eight samples; got 8 and 1"),
        (["samples", "--data", "set", "--extractor", "missing.pt2"], "missing.pt2"),
        (["samples", "--data", "set", "--num-inference-steps", "0"], "at least 1; got 0"),
        (["samples", "--data", "other"], "class_names lacks 'zebra'"),
        (["samples"], "give --data SOURCE or --reference FILE, or both"),
        ([], "required: SUBJECT"),
        (["taste"], "invalid choice: 'taste'"),
    ],
)
def test_wrong_requests_end_in_one_line_and_code_2(genrefine, model, pictures, tmp_path, extractor, words, message):
    shutil.copytree(pictures / "test", tmp_path / "set")
    shutil.copytree(pictures / "test" / "food" / "fluent", tmp_path / "other" / "zebra")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    known = {"samples": ["--extractor", extractor, "--extractor-size", 32]}
    common = [*known.get(words[0], []), "--model", model] if words[1:] else []
    answer = genrefine("evaluate", *words[:1], *common, *words[1:])
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
