"""Statistics in files, distances to them, and the inception score."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torchmetrics.functional import kl_divergence

from genrefine.errors import GenrefineError
from genrefine.evaluation.frechet import frechet_distance
from genrefine.evaluation.statistics import (
    frechet_to,
    inception_score,
    read_statistics,
    statistics_of,
    write_statistics,
)


def drawn(count, seed, shift=0.0, dim=20):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, dim, generator=generator) @ mixed + shift


@pytest.mark.parametrize("count", [12, 300], ids=["fewer pictures than features", "more"])
def test_the_distance_to_statistics_is_that_to_their_pictures(tmp_path, count):
    a, b = drawn(count, 1), drawn(500, 2, 0.3)
    write_statistics(tmp_path / "b.npz", statistics_of(b, "a network"))
    found = read_statistics(tmp_path / "b.npz")
    assert found.extractor == "a network"
    assert found.num_pictures == 500
    assert frechet_to(a, found) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert frechet_to(b, found) == pytest.approx(0, abs=1e-4)


def test_the_distance_is_that_of_the_usual_program():
    a, b = drawn(300, 3), drawn(400, 4, 0.5)
    mu_a, mu_b = (x.double().numpy().mean(0) for x in (a, b))
    s_a, s_b = (np.cov(x.double().numpy(), rowvar=False) for x in (a, b))
    usual = ((mu_a - mu_b) ** 2).sum() + np.trace(s_a + s_b - 2 * linalg.sqrtm(s_a @ s_b).real)
    assert frechet_to(a, statistics_of(b, "")) == pytest.approx(usual, rel=1e-6)


def test_files_of_other_programs_are_read(tmp_path):
    """ADM's hold pictures and spatial statistics too, in float32; a pickled array among them is not touched."""
    x = drawn(60, 5, dim=6).numpy()
    arrays = {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False).astype(np.float32), "mu_s": np.zeros(9)}
    np.savez(tmp_path / "adm.npz", **arrays, arr_0=np.array([{}], dtype=object))
    found = read_statistics(tmp_path / "adm.npz")
    assert found.extractor is None
    assert frechet_to(torch.from_numpy(x), found) == pytest.approx(0, abs=1e-4)


def test_what_is_no_gaussian_is_refused(tmp_path):
    good = {"mu": np.zeros(3), "sigma": np.eye(3)}
    cases = {
        "half": {"mu": good["mu"]},
        "shape": good | {"sigma": np.eye(4)},
        "words": good | {"mu": np.array(["a", "b", "c"])},
        "nan": good | {"mu": np.array([0, np.nan, 0])},
        "pickle": good | {"mu": np.array([0, None, 0], dtype=object)},
    }
    for name, arrays in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(GenrefineError, match="must hold mean and covariance"):
            read_statistics(tmp_path / f"{name}.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.eye(3))
    for name in ("text.npz", "one.npy", "nothing.npz"):
        with pytest.raises(GenrefineError, match="must hold mean and covariance"):
            read_statistics(tmp_path / name)
    np.savez(tmp_path / "good.npz", **good)
    with pytest.raises(GenrefineError, match="statistics of 3 features"):
        frechet_to(drawn(9, 1), read_statistics(tmp_path / "good.npz"))
    with pytest.raises(GenrefineError, match="two pictures"):
        statistics_of(drawn(1, 1), "")


def test_the_inception_score_is_its_definition():
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 3
    found = inception_score(logits, num_splits=4)
    scores = []
    for part in logits.double().softmax(1).split(10):
        together = part.mean(0, keepdim=True).expand_as(part)
        scores.append(float(torch.exp(kl_divergence(part, together, reduction="mean"))))
    assert found.mean == pytest.approx(np.mean(scores))
    assert found.std == pytest.approx(np.std(scores))
    sure = torch.eye(5).repeat(8, 1) * 1000
    assert inception_score(sure, num_splits=1).mean == pytest.approx(5)
    assert inception_score(torch.zeros(10, 5), num_splits=2).mean == pytest.approx(1)
    with pytest.raises(GenrefineError, match="10 splits"):
        inception_score(logits[:9])
