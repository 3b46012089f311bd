"""What stands at the path that a caller gives: a checkpoint, a folder of checkpoints, or a folder of ours.

A folder is searched at its top only. It may hold a refiner and a tokenizer, each as one file or as safetensors shards
with their index, and must hold plain files: a symbolic link or a shard name that leads elsewhere is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from genrefine.convert.checkpoint import (
    PICKLES,
    SAFETENSORS,
    State,
    pick_weights,
    read_checkpoint,
    read_safetensors,
    weight_sets,
)
from genrefine.convert.networks import KINDS, READS, Hints, Network, network_from_weights, with_codes
from genrefine.errors import GenrefineError
from genrefine.files import read_json
from genrefine.model_folder.checks import WEIGHTS
from genrefine.model_folder.checksums import verify_checksums
from genrefine.pipelines import check_component_folder

INDEX = ".index.json"
_PARTS = {"refiner": ("class refiner", "text refiner"), "visual_tokenizer": ("visual tokenizer",)}


@dataclass(frozen=True)
class Source:
    """One checkpoint, read and not yet translated.

    Args:
        path: of the file, or of a folder of ours.
        state: the chosen weights.
        chosen: name of the set they were stored under; "" if there was but one.
        arguments: training arguments in the file, if any.
        ours: kind and configuration, if the weights are ours already.
    """

    path: Path
    state: State
    chosen: str = ""
    arguments: Any = None
    ours: tuple[str, dict[str, Any]] | None = None

    def network(self, hints: Hints) -> Network:
        """Return the network, recognized and translated.

        Raises:
            GenrefineError: the weights are of no published network, or something has to be said about them.
        """
        if self.ours is None:
            return network_from_weights(self.state, hints, self.arguments, self.path.name)
        kind, config = self.ours
        network = Network(kind, config, self.state)
        if kind == "visual tokenizer":
            return with_codes(network, hints)
        fixed = sorted(READS[kind] & hints.given())
        if fixed:
            raise GenrefineError(f"'{self.path}' is converted already and knows its {fixed[0]}; leave it out")
        return network


def find_sources(path: Path, weights: str | None = None) -> list[Source]:
    """Return the checkpoints at a path.

    Args:
        path: file or folder.
        weights: name of the set to take out of a file that holds several; None for that of the authors.

    Raises:
        GenrefineError: nothing is there, a file is refused, or a folder holds what could be meant in two ways.
    """
    if not path.is_dir():
        return [_read(path, weights)]
    if (path / "model_index.json").is_file():
        return [_read_ours(path / part) for part in _PARTS if (path / part).is_dir()]
    if (path / "config.json").is_file() and _class_name(path) in {kind.__name__ for kind in KINDS.values()}:
        return [_read_ours(path)]
    entries = sorted(path.iterdir())
    linked = [entry for entry in entries if entry.is_symlink()]
    if linked:
        raise GenrefineError(
            f"'{linked[0]}' is a symbolic link; a folder of weights must hold plain files; download into a folder of "
            "your own, or give the file itself"
        )
    indices = [entry for entry in entries if entry.name.endswith(SAFETENSORS + INDEX)]
    shards = {shard for index in indices for shard in _shards(index)}
    files = [
        entry
        for entry in entries
        if entry.is_file() and entry.suffix in (*PICKLES, SAFETENSORS) and entry.name not in shards
    ]
    if not files and not indices:
        raise GenrefineError(f"'{path}' holds no weights ({', '.join((*PICKLES, SAFETENSORS))}); check the path")
    contents = {file: read_checkpoint(file) for file in files}
    if weights is not None and not any(weights in weight_sets(content) for content in contents.values()):
        raise GenrefineError(f"no file in '{path}' has weights under '{weights}'; leave --weights out")
    sources = [
        _source(file, content, weights if weights in weight_sets(content) else None)
        for file, content in contents.items()
    ]
    return sources + [Source(index, _joined(index)) for index in indices]


def _read(path: Path, weights: str | None) -> Source:
    return _source(path, read_checkpoint(path), weights)


def _source(path: Path, content: dict[str, Any], weights: str | None) -> Source:
    chosen, state = pick_weights(content, weights)
    return Source(path, state, chosen, content.get("args"))


def _shards(index: Path) -> list[str]:
    named = read_json(index, "download it again").get("weight_map")
    if not isinstance(named, dict):
        raise GenrefineError(f"'{index}' is no index of shards: it has no 'weight_map'; download it again")
    names = list(named.values())
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(SAFETENSORS):
            raise GenrefineError(f"'{index}' names the shard {name!r}, which leads out of its folder; do not load it")
    return sorted(set(names))


def _joined(index: Path) -> State:
    """Return the tensors of all shards of an index."""
    state: State = {}
    for name in _shards(index):
        shard = index.parent / name
        if not shard.is_file():
            raise GenrefineError(f"'{index}' names the shard '{name}', which is not there; download it")
        tensors = read_safetensors(shard)
        repeated = sorted(state.keys() & tensors.keys())
        if repeated:
            raise GenrefineError(f"two shards of '{index}' hold the key '{repeated[0]}'; download them again")
        state |= tensors
    return pick_weights(dict(state))[1]


def _read_ours(folder: Path) -> Source:
    kinds = {kind_class.__name__: name for name, kind_class in KINDS.items()}
    name = _class_name(folder)
    if name not in kinds:
        raise GenrefineError(f"'{folder}' holds a {name}; expected {', '.join(kinds)}; check the path")
    kind = kinds[name]
    check_component_folder(folder, KINDS[kind])  # type: ignore[arg-type]
    verify_checksums(folder)
    config = read_json(folder / "config.json")
    return Source(folder, _stored(folder), ours=(kind, {k: v for k, v in config.items() if not k.startswith("_")}))


def _stored(folder: Path) -> State:
    index = folder / (WEIGHTS + INDEX)
    return _joined(index) if index.is_file() else read_safetensors(folder / WEIGHTS)


def _class_name(folder: Path) -> Any:
    return read_json(folder / "config.json", "fetch it again").get("_class_name")


def total_bytes(state: Mapping[str, Tensor]) -> int:
    """Return the size of weights as they are stored."""
    return sum(tensor.nbytes for tensor in state.values())
