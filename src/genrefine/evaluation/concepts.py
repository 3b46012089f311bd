"""Whether pictures show what was asked for: nearest real pictures by features.

A query picture was asked to show a concept c in a style s. Among the real pictures of a gallery, of all concepts and
styles, the nearest by cosine distance of features is found; the query is right if that picture shows c (concept
accuracy) or is drawn in s (style accuracy). "Of five" asks whether any of the five nearest is.

The same count for other queries gives the scale:

    samples   the gallery is whole: the real picture (c, s) itself stays in, as it is what was asked for
    ceiling   the query is the real picture of c in another style s', asked for (c, s'); it alone leaves the gallery
    chance    the query is a real picture drawn at random, asked for (c, s); it alone leaves the gallery

Shares have 95 % intervals by Wilson's formula.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.evaluation.neighbors import nearest_neighbors

NUM_NEIGHBORS = 5
CHANCE_DRAWS = 20


@dataclass(frozen=True)
class Shown:
    """What pictures show, one entry per picture.

    Args:
        concepts: what is drawn.
        styles: how it is drawn.
    """

    concepts: tuple[str, ...]
    styles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.concepts)

    def at(self, places: Sequence[int]) -> "Shown":
        """Return the entries at some places."""
        return Shown(tuple(self.concepts[i] for i in places), tuple(self.styles[i] for i in places))


@dataclass(frozen=True)
class Share:
    """A share of queries with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """How often the nearest real pictures show what was asked for.

    Args:
        queries: "samples", "ceiling" or "chance", or a part of the samples.
        num_queries: how many.
        num_gallery: real pictures in the gallery.
        concept, concept_of_five: the nearest picture, or one of the five nearest, has the concept.
        style, style_of_five: the same for the style.
    """

    queries: str
    num_queries: int
    num_gallery: int
    concept: Share
    concept_of_five: Share
    style: Share
    style_of_five: Share


def concept_accuracy(
    queries: str, nearest: Int[Tensor, "queries five"], asked: Shown, gallery: Shown, excluded: int = 0
) -> Accuracy:
    """Count how often the nearest pictures of a gallery show what was asked for.

    Args:
        queries: what the queries are, for the record.
        nearest: places in the gallery of the pictures nearest to each query, nearest first.
        asked: what each query was asked to show.
        gallery: what the gallery's pictures show.
        excluded: pictures of the gallery that no query may find.

    Raises:
        GenrefineError: there is no query, or not one request per query.
    """
    if not len(asked) or len(nearest) != len(asked):
        raise GenrefineError(f"accuracy needs one request per query; got {len(asked)} for {len(nearest)} queries")
    rows = nearest.tolist()
    hits = [
        torch.tensor([[values[place] == wanted for place in row] for row, wanted in zip(rows, of, strict=True)])
        for values, of in ((gallery.concepts, asked.concepts), (gallery.styles, asked.styles))
    ]
    return Accuracy(
        queries,
        len(asked),
        len(gallery) - excluded,
        *(share_of(found) for hit in hits for found in (hit[:, 0], hit.any(dim=1))),
    )


def share_of(hits: Sequence[bool] | Tensor) -> Share:
    """Return the share of hits with Wilson's 95 % interval."""
    n = len(hits)
    p, z = float(torch.as_tensor(hits).double().mean()), 1.959964
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Share(p, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale))


def nearest_real(
    queries: Float[Tensor, "queries features"], gallery: Float[Tensor, "gallery features"]
) -> Int[Tensor, "queries five"]:
    """Return the places of the five nearest pictures of the gallery, nearest first."""
    _require(len(gallery), NUM_NEIGHBORS)
    return nearest_neighbors(queries, gallery, NUM_NEIGHBORS).indices


def nearest_others(places: Sequence[int], gallery: Float[Tensor, "gallery features"]) -> Int[Tensor, "queries five"]:
    """Return the five nearest other pictures for pictures of the gallery itself."""
    _require(len(gallery), NUM_NEIGHBORS + 1)
    found = nearest_neighbors(gallery[list(places)], gallery, NUM_NEIGHBORS + 1).indices.tolist()
    # Among equal pictures a query need not be its own nearest, nor among the six at all.
    rows = [[i for i in row if i != own][:NUM_NEIGHBORS] for row, own in zip(found, places, strict=True)]
    return torch.tensor(rows)


def ceiling(asked: Shown, features: Float[Tensor, "gallery features"], gallery: Shown, seed: int) -> Accuracy:
    """Return the accuracy of real pictures of the same concepts in another style.

    Concepts that the gallery has in no other style are left out; of several other styles one is drawn.

    Raises:
        GenrefineError: no concept has another style.
    """
    generator = torch.Generator().manual_seed(seed)
    places_of: dict[str, list[int]] = {}
    for place, concept in enumerate(gallery.concepts):
        places_of.setdefault(concept, []).append(place)
    chosen = []
    for concept, style in zip(asked.concepts, asked.styles, strict=True):
        others = [place for place in places_of.get(concept, []) if gallery.styles[place] != style]
        if others:
            chosen.append(others[int(torch.randint(len(others), (), generator=generator))])
    if not chosen:
        raise GenrefineError("a ceiling needs pictures of the same concepts in another style; the gallery has none")
    return concept_accuracy("ceiling", nearest_others(chosen, features), gallery.at(chosen), gallery, excluded=1)


def chance(asked: Shown, features: Float[Tensor, "gallery features"], gallery: Shown, seed: int) -> Accuracy:
    """Return the accuracy of random real pictures, twenty for each request."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(len(gallery), (CHANCE_DRAWS * len(asked),), generator=generator).tolist()
    wanted = asked.at([number % len(asked) for number in range(len(places))])
    return concept_accuracy("chance", nearest_others(places, features), wanted, gallery, excluded=1)


def _require(count: int, at_least: int) -> None:
    if count < at_least:
        raise GenrefineError(f"a gallery needs at least {at_least} real pictures; got {count}")
