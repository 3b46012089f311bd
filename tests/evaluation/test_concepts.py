"""Concept and style accuracy: what is counted, what is left out, and what stands beside it."""

import pytest
import torch

from genrefine.errors import GenrefineError
from genrefine.evaluation.concepts import (
    Shown,
    ceiling,
    chance,
    concept_accuracy,
    nearest_others,
    nearest_real,
    share_of,
)

STYLES = ("noto", "fluent", "twemoji")


def _gallery(num_concepts: int = 6, apart: float = 0.1) -> tuple[torch.Tensor, Shown]:
    """Return features in which pictures of one concept lie together, in three styles."""
    generator = torch.Generator().manual_seed(0)
    concepts = tuple(f"c{i}" for i in range(num_concepts) for _ in STYLES)
    means = torch.eye(num_concepts).repeat_interleave(len(STYLES), dim=0)
    return means + apart * torch.randn(means.shape, generator=generator), Shown(concepts, STYLES * num_concepts)


def test_the_picture_asked_for_stays_in_the_gallery_of_samples():
    features, shown = _gallery()
    found = concept_accuracy("samples", nearest_real(features, features), shown, shown)
    assert (found.concept.value, found.style.value, found.num_gallery) == (1, 1, 18)


def test_counts_are_those_of_the_nearest_and_of_the_five_nearest():
    shown = Shown(("a", "b", "c", "a", "b", "c"), ("x", "x", "x", "y", "y", "y"))
    nearest = torch.tensor([[1, 3, 2, 4, 5], [1, 0, 2, 4, 5], [5, 0, 1, 2, 4], [0, 1, 2, 4, 5]])
    asked = Shown(("a", "b", "c", "d"), ("x", "y", "x", "y"))
    found = concept_accuracy("samples", nearest, asked, shown)
    # Query 0 finds a second, query 1 finds b at once in the wrong style, query 2 c likewise, query 3 never.
    assert (found.concept.value, found.concept_of_five.value) == (0.5, 0.75)
    assert (found.style.value, found.style_of_five.value) == (0.25, 1)


def test_a_picture_is_not_its_own_neighbor_even_among_many_equal_ones():
    features = torch.ones(9, 4)
    for place, row in enumerate(nearest_others(range(9), features).tolist()):
        assert place not in row
        assert len(set(row)) == 5


def test_the_ceiling_asks_real_pictures_of_other_styles_for_their_own_concept_and_style():
    features, shown = _gallery(apart=0.01)
    asked = Shown(("c0", "c3"), ("noto", "fluent"))
    found = ceiling(asked, features, shown, seed=0)
    assert (found.queries, found.num_queries, found.num_gallery) == ("ceiling", 2, 17)
    assert found.concept.value == 1  # its two siblings are still there
    assert found.style.value == 0  # and neither is in its own style
    alone = Shown(("c0", "x"), ("noto", "noto"))
    assert ceiling(alone, features, shown, seed=0).num_queries == 1
    with pytest.raises(GenrefineError, match="in another style"):
        ceiling(Shown(("x",), ("noto",)), features, shown, seed=0)


def test_chance_is_the_share_of_the_concept_and_of_the_style():
    features, shown = _gallery(num_concepts=10)
    found = chance(shown, features, shown, seed=0)
    assert found.num_queries == 20 * 30
    assert found.concept.low < 1 / 10 < found.concept.high
    assert found.style.low < 1 / 3 < found.style.high


def test_intervals_hold_the_share_and_narrow_with_the_number_of_queries():
    few, many = share_of([True] * 3 + [False] * 7), share_of([True] * 300 + [False] * 700)
    assert few.value == many.value == pytest.approx(0.3)
    assert few.low < many.low < 0.3 < many.high < few.high
    assert (few.low, few.high) == (pytest.approx(0.1078, abs=1e-4), pytest.approx(0.6032, abs=1e-4))
    assert share_of([True] * 5).high == 1
    assert share_of([False] * 5).low == 0


def test_too_small_a_gallery_and_no_queries_are_refused():
    with pytest.raises(GenrefineError, match="at least 5"):
        nearest_real(torch.ones(1, 4), torch.ones(4, 4))
    with pytest.raises(GenrefineError, match="at least 6"):
        nearest_others([0], torch.ones(5, 4))
    with pytest.raises(GenrefineError, match="one request per query"):
        concept_accuracy("samples", torch.zeros(2, 5, dtype=torch.long), Shown(("a",), ("x",)), Shown(("a",), ("x",)))
