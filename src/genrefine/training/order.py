"""Which items belong to which update: a pure function of the seed, so that a resumed run continues exactly.

Epoch ``e`` visits the items in a random permutation drawn from (seed, e). Update ``i`` takes the next ``batch_size`` of
this endless sequence; process ``r`` of ``n`` takes its share of them. Where the items are `Grouped`, an epoch visits
the groups instead, and of each one member: in epoch ``e`` member ``e mod size``, so that all have equally many turns.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from genrefine.errors import GenrefineError

Groups = Sequence[Sequence[int]]


def step_seed(seed: int, step: int, purpose: int = 0) -> int:
    """Mix a run's seed, an update's number and a purpose to one generator seed (SplitMix64's finalizer)."""
    x = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + purpose * 0x94D049BB133111EB + 1) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (x ^ (x >> 31)) >> 1


def require_even(batch_size: int, num_processes: int, what: str) -> None:
    """Refuse a batch that processes cannot share evenly."""
    if batch_size < 1 or batch_size % num_processes:
        raise GenrefineError(
            f"a batch of {what} must be a multiple of the {num_processes} processes; got {batch_size}; change the "
            "batch size or the number of processes"
        )


def groups_of(values: Sequence[Any]) -> list[list[int]]:
    """Return the items of each distinct value, in order of first appearance."""
    found: dict[Any, list[int]] = {}
    for item, value in enumerate(values):
        found.setdefault(value, []).append(item)
    return list(found.values())


class Grouped(Dataset[Any]):
    """Let every group of items count as one: ten variants of a thing are seen as often as a thing without variants.

    Args:
        dataset: the items.
        groups: places of the items of each group, every item in exactly one.

    Raises:
        GenrefineError: the groups are not a partition of the items.
    """

    def __init__(self, dataset: Dataset[Any], groups: Groups) -> None:
        count: int = len(dataset)  # type: ignore[arg-type]
        if not all(groups) or sorted(item for group in groups for item in group) != list(range(count)):
            raise GenrefineError(f"groups must hold each of {count} items once; got {sum(map(len, groups))} places")
        self.dataset, self.groups = dataset, groups

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """Return an item, as the data set does."""
        return self.dataset[index]

    def name_of(self, index: int) -> str:
        """Return the name of an item."""
        return name_of(self.dataset, index)


def name_of(dataset: Dataset[Any], index: int) -> str:
    """Return the name of an item of a data set, or its number where items have none."""
    return str(dataset.name_of(index)) if hasattr(dataset, "name_of") else f"item {index}"


class EndlessBatches:
    """Yield the item indices of each micro-batch of one process, from any micro-batch on.

    Args:
        items: how many there are, or their groups.
        batch_size: items of a micro-batch over all processes, of which each has as many as the others: gradients are
            averaged over processes, so that an item would otherwise weigh more in a smaller share.

    Raises:
        GenrefineError: the batch cannot be shared evenly.
    """

    def __init__(
        self, items: int | Groups, batch_size: int, seed: int, start: int = 0, rank: int = 0, num_processes: int = 1
    ) -> None:
        require_even(batch_size, num_processes, "items")
        self.groups = None if isinstance(items, int) else items
        self.num_items = items if isinstance(items, int) else len(items)
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self.rank, self.num_processes = rank, num_processes

    def __iter__(self) -> Iterator[list[int]]:
        position = self.start * self.batch_size
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        while True:
            batch: list[int] = []
            for place in range(position, position + self.batch_size):
                if place // self.num_items != epoch:
                    epoch = place // self.num_items
                    generator = torch.Generator().manual_seed(step_seed(self.seed, epoch, purpose=1))
                    order = torch.randperm(self.num_items, generator=generator)
                item = int(order[place % self.num_items])
                if self.groups is not None:
                    item = self.groups[item][epoch % len(self.groups[item])]
                batch.append(item)
            position += self.batch_size
            yield batch[self.rank :: self.num_processes]
