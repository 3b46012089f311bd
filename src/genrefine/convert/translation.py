"""Published names -> ours: translated weights must have exactly the names and shapes of our network.

What is missing, unknown or of another shape is named. Networks are built on the meta device, which has shapes and no
numbers, so that checking costs no memory.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any, TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from genrefine.convert.checkpoint import State
from genrefine.errors import GenrefineError

Model = TypeVar("Model", bound=ModelMixin)
Rename = Callable[[str], str | None]


@dataclass(frozen=True)
class RenamedWeights:
    """One line of the table of renames: weights whose names differ in numbers only stand together.

    Args:
        published: name in the checkpoint, numbers that differ as `*`.
        ours: name in our network, likewise; empty if the weight was dropped.
        shapes: in our network, each once.
        count: weights that it stands for.
    """

    published: str
    ours: str
    shapes: tuple[tuple[int, ...], ...]
    count: int


@dataclass(frozen=True)
class Naming:
    """What the weights of one file are called.

    Args:
        rename: our name of a key, or None if no published network has it.
        keys: of the file.
        templates: every published key, numbers being any.
    """

    rename: Rename
    keys: Sequence[str]
    templates: Sequence[str]

    def in_file(self, ours: str) -> str:
        """Return what a weight of ours is called in the file, or would be, with our name behind it."""
        same = [key for key in self.keys if self.rename(key) == ours]
        alike = [key for key in self.keys if _without_numbers(str(self.rename(key))) == _without_numbers(ours)]
        guesses = (
            key for like in (*alike, *self.templates) for key in _other_numbers(like) if self.rename(key) == ours
        )
        key = next(chain(same, guesses), None)
        return ours if key is None else f"{key} (here {ours})"


def _other_numbers(key: str) -> Iterator[str]:
    """Return a key with every choice of numbers below 64 in its first two places of numbers."""
    words = key.split(".")
    places = [place for place, word in enumerate(words) if word.isdecimal()][:2]
    for numbers in product(map(str, range(64)), repeat=len(places)):
        for place, number in zip(places, numbers, strict=True):
            words[place] = number
        yield ".".join(words)


def translate(state: Mapping[str, Tensor], rename: Rename) -> State:
    """Return the weights under our names.

    Args:
        state: weights under published names.
        rename: our name of a published one, or None if it is not one.

    Raises:
        GenrefineError: naming the keys that no published network has.
    """
    unknown = [key for key in state if rename(key) is None]
    if unknown:
        raise GenrefineError(f"checkpoint has keys that the published network does not: {first_of(unknown)}")
    ours: State = {}
    origin: dict[str, str] = {}
    for key, tensor in state.items():
        name = str(rename(key))
        if name in ours:
            raise GenrefineError(
                f"checkpoint has two keys for one weight, '{origin[name]}' and '{key}'; no published network has"
            )
        ours[name], origin[name] = tensor, key
    return ours


def rename_table(published: Iterable[str], rename: Rename, ours: Mapping[str, Tensor]) -> list[RenamedWeights]:
    """Return the table of renames of a checkpoint.

    Args:
        published: its keys.
        rename: our name of each.
        ours: the translated weights; published keys that are not among them were dropped.
    """
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for key in published:
        name = str(rename(key))
        pair = key, name if name in ours else ""
        groups.setdefault((_without_numbers(pair[0]), _without_numbers(pair[1])), []).append(pair)
    return [
        RenamedWeights(
            _merged([key for key, _ in pairs]),
            _merged([name for _, name in pairs]),
            tuple(dict.fromkeys(tuple(ours[name].shape) for _, name in pairs if name)),
            len(pairs),
        )
        for pairs in groups.values()
    ]


def _without_numbers(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _merged(names: list[str]) -> str:
    places = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(words[0] if len(set(words)) == 1 else "*" for words in places)


def on_meta(model_class: type[Model], config: Mapping[str, Any]) -> Model:
    """Return a network of this configuration that has shapes and no numbers."""
    with torch.device("meta"):
        return model_class(**config)


def require_fit(model: ModelMixin, state: Mapping[str, Tensor], naming: Naming | None = None) -> None:
    """Refuse weights that are not exactly those of a network.

    Args:
        model: the network, with or without numbers.
        state: translated weights.
        naming: of the file; errors call a weight as the file does, with our name behind it. None for weights of ours.

    Raises:
        GenrefineError: naming missing or unexpected keys, or the first shapes that differ.
    """
    expected = model.state_dict()
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    if not missing and not unexpected and all(expected[key].shape == state[key].shape for key in expected):
        return
    in_file = str if naming is None else naming.in_file
    if missing or unexpected:
        lacks, has = (first_of(in_file(key) for key in keys) for keys in (missing, unexpected))
        raise GenrefineError(f"weights must fit the network; missing: {lacks}; unexpected: {has}")
    wrong = [key for key in expected if expected[key].shape != state[key].shape]
    raise GenrefineError(
        "weights must have the network's shapes; "
        + "; ".join(
            f"{in_file(key)} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}" for key in wrong[:3]
        )
    )


def build_exactly(
    model_class: type[Model],
    config: Mapping[str, Any],
    state: State,
    naming: Naming | None = None,
) -> Model:
    """Return a model of this configuration with these weights, every name and shape checked as by `require_fit`.

    Raises:
        GenrefineError: naming missing or unexpected keys, or the first shapes that differ.
    """
    model = on_meta(model_class, config)
    require_fit(model, state, naming)
    model.load_state_dict(state, assign=True)
    return model.eval()


def first_of(keys: Iterable[str], count: int = 5) -> str:
    """Return the first names and how many follow."""
    names = sorted(keys)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) + more) or "none"
