"""Nearest neighbors in feature space, and what they say about memorization."""

import pytest
import torch
import torch.nn.functional as F

from genrefine.errors import GenrefineError
from genrefine.evaluation.neighbors import memorization, nearest_neighbors


def _features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def test_neighbors_equal_those_of_every_pair():
    queries, references = _features(5, 0), _features(9, 1)
    found = nearest_neighbors(queries, references, 3)
    for query, indices, distances in zip(queries, found.indices, found.distances, strict=True):
        expected = sorted((1 - F.cosine_similarity(query, r, dim=0).item(), i) for i, r in enumerate(references))[:3]
        assert indices.tolist() == [i for _, i in expected]
        assert distances.tolist() == pytest.approx([d for d, _ in expected], abs=1e-5)


def test_a_copy_finds_itself_at_distance_zero_whatever_its_scale():
    references = _features(9, 1)
    found = nearest_neighbors(references[[4, 7]] * 3, references)
    assert found.indices[:, 0].tolist() == [4, 7]
    assert found.distances.flatten().tolist() == pytest.approx([0, 0], abs=1e-6)


def test_more_neighbors_than_references_are_refused():
    with pytest.raises(GenrefineError, match=r"1\.\.3"):
        nearest_neighbors(_features(2, 0), _features(3, 1), 4)


def test_copies_of_training_pictures_are_noticed_and_new_pictures_are_not():
    training, held_out = _features(300, 0), _features(200, 1)
    copies = memorization(training[:100] + 0.01 * _features(100, 3), held_out, training)
    fresh = memorization(_features(100, 4), held_out, training)
    assert copies.near_share == 1.0
    assert copies.median_distance_of_samples < 0.01 * copies.median_distance_of_held_out
    assert fresh.near_share < 0.1
    assert fresh.median_distance_of_samples == pytest.approx(fresh.median_distance_of_held_out, rel=0.1)
