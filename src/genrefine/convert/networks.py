"""Which published network a set of weights is, told from its keys and shapes; what they cannot tell is asked or said.

| weights | told by keys and shapes | to be said |
|---|---|---|
| class refiner | all sizes | classes of one code and in-context start, unless published or stored |
| text refiner | all sizes | attention, but for the 8 B size; classes of one code if not 2 |
| visual tokenizer | all sizes | rounds, layout, tanh: published values unless given |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from genrefine.convert import class_refiner, text_refiner, tokenizer
from genrefine.convert.checkpoint import State
from genrefine.convert.translation import (
    RenamedWeights,
    build_exactly,
    on_meta,
    rename_table,
    require_fit,
    translate,
)
from genrefine.errors import GenrefineError
from genrefine.hbq import MAX_ROUNDS
from genrefine.refiner import ClassRefiner, TextRefiner
from genrefine.tokenizer import VisualTokenizer

KINDS: dict[str, type[ModelMixin]] = {
    "class refiner": ClassRefiner,
    "text refiner": TextRefiner,
    "visual tokenizer": VisualTokenizer,
}


ALLOWED: dict[str, Sequence[Any]] = {
    "code_classes": range(2, 2**MAX_ROUNDS + 1),
    "in_context_start": range(1000),
    "attention": ("prefix", "joint"),
    "rounds": range(1, MAX_ROUNDS + 1),
    "layout": ("bit", "index"),
    "bounded": (True, False),
}
"""What a hint may be."""


@dataclass(frozen=True)
class Hints:
    """What a caller says about weights; None where he leaves it to the file and the published values.

    Args:
        code_classes: classes of one code of a refiner.
        in_context_start: first block of a class refiner that sees class tokens.
        attention: "prefix" or "joint", of a text refiner.
        rounds: HBQ rounds of a tokenizer's codes.
        layout: "bit" or "index", of a tokenizer's codes.
        bounded: whether a tokenizer's latents go through tanh.
    """

    code_classes: int | None = None
    in_context_start: int | None = None
    attention: str | None = None
    rounds: int | None = None
    layout: str | None = None
    bounded: bool | None = None

    def __post_init__(self) -> None:
        for name in self.given():
            value, allowed = getattr(self, name), ALLOWED[name]
            if type(value) is not type(allowed[0]) or value not in allowed:
                said = ", ".join(map(str, allowed)) if len(allowed) < 3 else f"from {allowed[0]} to {allowed[-1]}"
                raise GenrefineError(f"{name} must be {said}; got {str(value)[:40]!r}; correct it, or leave it out")

    def given(self) -> set[str]:
        """Return the names of what is said."""
        return {part.name for part in fields(self) if getattr(self, part.name) is not None}


READS = {
    "class refiner": {"code_classes", "in_context_start"},
    "text refiner": {"code_classes", "attention"},
    "visual tokenizer": {"rounds", "layout", "bounded"},
}
"""What can be said about each kind."""


NAMING = {
    "class refiner": class_refiner.naming,
    "text refiner": text_refiner.naming,
    "visual tokenizer": tokenizer.naming,
}


@dataclass(frozen=True)
class Network:
    """One network out of a checkpoint.

    Args:
        kind: one of `KINDS`.
        config: arguments of its constructor.
        weights: under our names, on disk until they are used.
        renames: table of renames; empty for a network that was ours already.
        notes: what was not told by keys and shapes, and how it is known.
    """

    kind: str
    config: dict[str, Any]
    weights: State
    renames: list[RenamedWeights] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_parameters(self) -> int:
        """Numbers in the weights."""
        return sum(tensor.numel() for tensor in self.weights.values())

    def on_meta(self) -> Any:
        """Return the network without its numbers."""
        return on_meta(KINDS[self.kind], self.config)

    def build(self) -> Any:
        """Return the network with its weights."""
        return build_exactly(KINDS[self.kind], self.config, self.weights)


def network_from_weights(
    state: Mapping[str, Tensor], hints: Hints | None = None, arguments: Any = None, file_name: str = "the weights"
) -> Network:
    """Recognize published weights and translate them.

    Args:
        state: weights under published names.
        hints: what keys and shapes do not tell.
        arguments: training arguments in the checkpoint, if any.
        file_name: for messages, and for the hint it may give.

    Raises:
        GenrefineError: naming the first keys or shapes that are of no published network, or what has to be said.

    Example:
        >>> network = network_from_weights(weights, Hints(attention="joint"))  # doctest: +SKIP
        >>> refiner = network.build()  # doctest: +SKIP
    """
    hints = hints or Hints()
    kind = recognize(state)
    network = {"class refiner": _class_refiner, "text refiner": _text_refiner, "visual tokenizer": _tokenizer}[kind](
        state, hints, arguments, file_name
    )
    require_fit(network.on_meta(), network.weights, NAMING[kind](state))
    return network


def recognize(state: Mapping[str, Tensor]) -> str:
    """Return the kind of network whose names most keys have.

    Raises:
        GenrefineError: naming the first keys, if no published network has any of them; or those that do not fit.
    """
    renames = {kind: naming(state).rename for kind, naming in NAMING.items()}
    fits = {kind: [key for key in state if rename(key) is not None] for kind, rename in renames.items()}
    best = max(fits, key=lambda kind: len(fits[kind]))
    wrong = [key for key in state if key not in set(fits[best])]
    if wrong:
        named = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        what = f"most keys are those of a {best}, but it has keys that the published network does not"
        raise GenrefineError(f"{what if fits[best] else 'no published network has these keys'}: {named}")
    return best


def _class_refiner(state: Mapping[str, Tensor], hints: Hints, arguments: Any, file_name: str) -> Network:
    ours = class_refiner.translate_weights(state)
    classes, how = class_refiner.find_code_classes(ours, arguments, hints.code_classes)
    config = class_refiner.infer_config(ours, classes, hints.in_context_start)
    class_refiner.drop_positions(ours, config)
    size = class_refiner.published_size(config["depth"], config["width"])
    start = "as given" if hints.in_context_start is not None else f"as published for size {size}"
    notes = [f"codes: {config['code_channels']} channels of {classes} classes, {how}"]
    if config["in_context_tokens"]:
        notes.append(f"class tokens join before block {config['in_context_start']}, {start}")
    return Network("class refiner", config, ours, rename_table(state, class_refiner.rename, ours), notes)


def _text_refiner(state: Mapping[str, Tensor], hints: Hints, arguments: Any, file_name: str) -> Network:
    ours = text_refiner.translate_weights(state)
    config = text_refiner.infer_config(ours, "joint", hints.code_classes or 2)
    attention, how = text_refiner.require_attention(hints.attention, config, file_name)
    classes, how_many = text_refiner.find_code_classes(ours, hints.code_classes)
    config |= {"attention": attention, "code_classes": classes}
    notes = [
        f"attention: {config['attention']}, {how}",
        f"codes: {config['code_channels']} channels of {classes} classes, {how_many}",
    ]
    return Network("text refiner", config, ours, rename_table(state, text_refiner.renaming(state), ours), notes)


def _tokenizer(state: Mapping[str, Tensor], hints: Hints, arguments: Any, file_name: str) -> Network:
    ours = translate(state, tokenizer.rename)
    chosen = {"rounds": 4, "layout": "bit", "bounded": True}
    config = {**tokenizer.infer_config(ours), **chosen}
    network = Network("visual tokenizer", config, ours, rename_table(state, tokenizer.rename, ours))
    return with_codes(network, hints)


def with_codes(network: Network, hints: Hints) -> Network:
    """Return a tokenizer with the rounds and layout that the caller says, or those it has."""
    given = {name: getattr(hints, name) for name in READS["visual tokenizer"] & hints.given()}
    config = {**network.config, **given}
    known = {name: "as given" if name in given else "as published" for name in READS["visual tokenizer"]}
    through = "through tanh" if config["bounded"] else "as they are"
    notes = [
        f"codes: {config['rounds']} rounds ({known['rounds']}), {config['layout']} layout ({known['layout']})",
        f"latents: {through} ({known['bounded']})",
    ]
    return Network(network.kind, config, network.weights, network.renames, notes)
