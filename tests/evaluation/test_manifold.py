"""Precision, recall, density and coverage against their definitions, and what they are for."""

import pytest
import torch

from genrefine.errors import GenrefineError
from genrefine.evaluation.manifold import manifold


def drawn(count, seed, spread=1.0, dim=4):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * spread


def by_definition(samples, pictures):
    """Loop over everything, ball by ball."""

    def ball(points, index, k):
        others = [float((points[index] - points[j]).double().norm()) for j in range(len(points)) if j != index]
        return sorted(others)[k - 1]

    def holds(centers, index, k, point):
        return float((centers[index] - point).double().norm()) <= ball(centers, index, k)

    precision = [any(holds(pictures, j, 3, y) for j in range(len(pictures))) for y in samples]
    recall = [any(holds(samples, i, 3, x) for i in range(len(samples))) for x in pictures]
    density = [sum(holds(pictures, j, 5, y) for j in range(len(pictures))) / 5 for y in samples]
    coverage = [any(holds(pictures, j, 5, y) for y in samples) for j in range(len(pictures))]
    return [sum(one) / len(one) for one in (precision, recall, density, coverage)]


def test_they_are_their_definitions():
    samples, pictures = drawn(15, 1, 1.3), drawn(18, 2)
    found = manifold(samples, pictures)
    expected = by_definition(samples, pictures)
    assert [found.precision, found.recall, found.density, found.coverage] == pytest.approx(expected)
    assert len({round(one, 6) for one in expected}) == 4, "the four must differ for the test to mean something"


def test_equal_sets_are_whole_and_far_ones_have_nothing():
    pictures = drawn(50, 1)
    same = manifold(pictures, pictures)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    far = manifold(pictures + 100, pictures)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_a_narrow_set_is_precise_and_covers_little():
    pictures, narrow, wide = drawn(300, 1), drawn(300, 2, 0.3), drawn(300, 3, 2.0)
    cold, hot = manifold(narrow, pictures), manifold(wide, pictures)
    assert cold.precision > hot.precision
    assert cold.density > hot.density
    assert cold.recall < hot.recall


def test_duplicates_are_neighbors_of_each_other():
    points = drawn(10, 1)
    doubled = torch.cat([points] * 6)  # every ball of five neighbors has radius zero and holds the point itself
    assert manifold(points, doubled).coverage == 1
    assert manifold(points + 1e-3, doubled).coverage == 0


def test_small_sets_and_other_features_are_refused():
    with pytest.raises(GenrefineError, match="more than 5"):
        manifold(drawn(5, 1), drawn(20, 2))
    with pytest.raises(GenrefineError, match="one extractor"):
        manifold(drawn(9, 1, dim=3), drawn(20, 2))
