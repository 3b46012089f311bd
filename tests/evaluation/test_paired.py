"""The paired interval: covers the truth, is tighter than two spreads, and is what a plain bootstrap gives."""

import pytest
import torch

from genrefine.errors import GenrefineError
from genrefine.evaluation.frechet import kernel_distance
from genrefine.evaluation.paired import Interval, paired_kernel_distance

DIM = 12


def drawn(count, seed, shift=0.0):
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)) + shift


def compare(first, second, pictures, seed=0, **more):
    return paired_kernel_distance(first, second, pictures, torch.Generator().manual_seed(seed), **more)


def test_the_distances_are_kernel_distances_of_everything():
    a, b, real = drawn(40, 1), drawn(40, 2, 0.4), drawn(60, 3)
    found = compare(a, b, real)
    for interval, features in ((found.first, a), (found.second, b)):
        # One subset of all samples, against each of many subsets of as many pictures.
        whole = kernel_distance(features, real, torch.Generator().manual_seed(5), 40, 4000).mean
        assert interval.value == pytest.approx(whole, abs=0.01)
    assert found.difference.value == pytest.approx(found.second.value - found.first.value, abs=1e-12)


def test_resampling_is_that_of_a_plain_bootstrap():
    """Against the definition with loops: the same seeds for both settings, no pair of a seed with itself."""
    a, b, real = drawn(9, 1), drawn(9, 2, 0.5), drawn(11, 3)
    found = compare(a, b, real, seed=7, num_resamplings=40)
    generator = torch.Generator().manual_seed(7)
    seeds = torch.randint(9, (40, 9), generator=generator)
    places = torch.randint(11, (40, 11), generator=generator)

    def kernel(x, y):
        return float((x.double() @ y.double() / DIM + 1) ** 3)

    def distance(samples, own, of_real):
        def within(points, chosen):
            values = [kernel(points[i], points[j]) for i in chosen for j in chosen if i != j]
            return sum(values) / len(values)

        across = [kernel(samples[i], real[j]) for i in own for j in of_real]
        return within(samples, own) + within(real, of_real) - 2 * sum(across) / len(across)

    differences = torch.tensor(
        [
            distance(b, one, other) - distance(a, one, other)
            for one, other in zip(seeds.tolist(), places.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )
    assert found.difference.low == pytest.approx(float(differences.quantile(0.025)), rel=1e-9)
    assert found.difference.high == pytest.approx(float(differences.quantile(0.975)), rel=1e-9)
    assert found.wins == pytest.approx(float((differences < 0).double().mean()))


def test_pairs_tell_apart_what_two_spreads_do_not():
    """The second setting is the first, moved a little: a shift far below the spread of either distance."""
    a, real = drawn(300, 1, 0.3), drawn(300, 2)
    nearer = a - 0.02
    found = compare(a, nearer, real)
    assert found.difference.high < 0
    assert found.difference.is_apart
    assert found.wins == 1
    spread = (found.first.high - found.first.low) + (found.second.high - found.second.low)
    assert abs(found.difference.value) < spread / 4
    swapped = compare(nearer, a, real)
    assert swapped.difference.low > 0
    assert swapped.difference.value == pytest.approx(-found.difference.value)
    assert compare(a, a, real).difference == Interval(0.0, 0.0, 0.0)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Two settings that are equally far: zero must lie in about 95 of 100 intervals, and not in all of them."""
    covered = 0
    for trial in range(100):
        common = drawn(40, 1000 + trial, 0.2)
        a, b = common + 0.5 * drawn(40, 2000 + trial), common + 0.5 * drawn(40, 3000 + trial)
        found = compare(a, b, drawn(40, 4000 + trial), seed=trial, num_resamplings=300)
        covered += not found.difference.is_apart
    assert 86 <= covered <= 99


def test_what_is_no_pair_is_refused():
    a, real = drawn(10, 1), drawn(20, 2)
    with pytest.raises(GenrefineError, match="as many samples of either setting"):
        compare(a, a[:9], real)
    with pytest.raises(GenrefineError, match="as many samples of either setting"):
        compare(a[:, :4], a[:, :4], real)
    with pytest.raises(GenrefineError, match="eight pairs"):
        compare(a[:7], a[:7], real)
