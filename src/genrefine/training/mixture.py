"""Samples of several kinds (stills, clips), every batch of one kind, so that the shapes of a run are few and constant.

Kind ``k`` of ``K`` gets the share ``s_k`` of all batches. Which kind a batch has depends on its number alone. Before
each batch every kind gains its share as credit ``c_k``; of the kinds with at least ``e = 1 / (2K - 2)`` the one that
would run out of patience first, with the least ``(1 - e - c_k) / s_k``, pays 1 and takes the batch. After ``n`` batches
kind ``k`` has then had ``n s_k`` of them up to ``1 - e`` (R. Tijdeman, The chairman assignment problem, Discrete
Mathematics 32, 1980); simply taking the kind with the most credit would miss by more than 1 from four kinds on.

Inside a kind the items follow the law of `order`, each kind with a seed of its own, and a resumed run continues both
exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf, lcm
from typing import Any

from torch.utils.data import ConcatDataset, Dataset

from genrefine.errors import GenrefineError
from genrefine.training.order import EndlessBatches, Groups, name_of, require_even, step_seed


@dataclass(frozen=True)
class Kind:
    """Samples of one shape.

    Args:
        name: what they are called in the log.
        num_items: how many there are.
        batch_size: samples of a micro-batch over all processes.
        share: share of the batches, relative to the other kinds.
        groups: of its items, see `genrefine.training.order`; None where every item counts by itself.
    """

    name: str
    num_items: int
    batch_size: int
    share: float = 1.0
    groups: Groups | None = None


class Mixture(ConcatDataset[Any]):
    """Join data sets, one per kind; the items of a kind follow those of the kind before.

    Args:
        datasets: one per kind.
        kinds: in the same order.

    Raises:
        GenrefineError: a kind has no items, no batch or no share.
    """

    def __init__(self, datasets: Sequence[Dataset[Any]], kinds: Sequence[Kind]) -> None:
        for kind in kinds:
            if kind.num_items < 1:
                raise GenrefineError(f"the data set of {kind.name} is empty; give at least one of them")
            if kind.batch_size < 1 or not 0 < kind.share < inf:
                raise GenrefineError(
                    f"{kind.name} need a batch of at least 1 and a share above 0; "
                    f"got {kind.batch_size} and {kind.share}; leave them out or give more"
                )
        super().__init__(datasets)
        self.kinds = tuple(kinds)

    def name_of(self, index: int) -> str:
        """Return the name of an item."""
        place = self.kind_of(index)
        return name_of(self.datasets[place], index - (self.cumulative_sizes[place - 1] if place else 0))

    def kind_of(self, index: int) -> int:
        """Return the kind of an item, as a place in `kinds`."""
        return next(place for place, end in enumerate(self.cumulative_sizes) if index < end)


class MixtureBatches:
    """Yield the item indices of each micro-batch of one process, from any micro-batch on."""

    def __init__(self, kinds: Sequence[Kind], seed: int, start: int = 0, rank: int = 0, num_processes: int = 1) -> None:
        self.kinds, self.seed, self.start = tuple(kinds), seed, start
        self.rank, self.num_processes = rank, num_processes
        for kind in kinds:
            require_even(kind.batch_size, num_processes, kind.name)

    def __iter__(self) -> Iterator[list[int]]:
        places = turns([kind.share for kind in self.kinds])
        seen = [0] * len(self.kinds)
        for _ in range(self.start):
            seen[next(places)] += 1
        offsets = [sum(kind.num_items for kind in self.kinds[:place]) for place in range(len(self.kinds))]
        streams = [
            iter(
                EndlessBatches(
                    kind.groups or kind.num_items,
                    kind.batch_size,
                    step_seed(self.seed, place, purpose=3),
                    start=seen[place],
                    rank=self.rank,
                    num_processes=self.num_processes,
                )
            )
            for place, kind in enumerate(self.kinds)
        ]
        for place in places:
            yield [offsets[place] + item for item in next(streams[place])]


def turns(shares: Sequence[float]) -> Iterator[int]:
    """Yield the kind of every batch from the first on, for shares relative to each other."""
    fractions = [Fraction(share) for share in shares]
    unit = lcm(*(fraction.denominator for fraction in fractions))
    gains = [int(fraction * unit) for fraction in fractions]  # whole numbers: the millionth batch rounds nothing
    price, patience = sum(gains), 2 * max(len(gains), 2) - 2  # patience is 1 / e
    credit = [0] * len(gains)
    while True:
        credit = [own + gain for own, gain in zip(credit, gains, strict=True)]
        waits = [
            ((patience - 1) * price - patience * own) / gain if patience * own >= price else inf
            for own, gain in zip(credit, gains, strict=True)
        ]
        chosen = min(range(len(gains)), key=waits.__getitem__)
        credit[chosen] -= price
        yield chosen
