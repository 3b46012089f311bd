"""Published checkpoints -> our folders: find, recognize, translate, write, read back.

    refiner, visual tokenizer (, text encoder)    a pipeline folder, which every command takes
    less than that                                a component folder each, and what is missing

Everything is written beside the place where it will stand and renamed in the end, so that an interrupted or refused
conversion leaves nothing. Weights go from the mapped file to the new one tensor by tensor.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from genrefine.convert.assembly import Assembly, plan_pipeline
from genrefine.convert.checkpoint import WEIGHT_DTYPES
from genrefine.convert.inputs import Source, find_sources, total_bytes
from genrefine.convert.networks import READS, Hints, Network
from genrefine.convert.weights_file import verify_weights, write_weights
from genrefine.errors import GenrefineError
from genrefine.files import appearing
from genrefine.model_folder.checks import WEIGHTS
from genrefine.model_folder.checksums import write_checksums


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Args:
        folder: where.
        kind: "class pipeline", "text pipeline", or the kind of the one component.
        networks: the networks in it, by the names of their folders; "" for a component folder.
        notes: what keys and shapes did not tell, and how it is known.
        missing: what a pipeline would need besides; empty for a pipeline.
    """

    folder: Path
    kind: str
    networks: dict[str, Network]
    notes: list[str]
    missing: list[str]

    @property
    def num_parameters(self) -> int:
        """Numbers in all networks."""
        return sum(network.num_parameters for network in self.networks.values())


def convert(
    source: str | Path,
    output: str | Path,
    *,
    tokenizer: str | Path | None = None,
    text_encoder: str | Path | None = None,
    class_names: list[str] | None = None,
    task: str | None = None,
    weights: str | None = None,
    hints: Hints | None = None,
    dtype: torch.dtype | None = None,
    quiet: bool = False,
) -> Conversion:
    """Write published weights as a folder of ours.

    Args:
        source: a published file, a folder of such files, or a component folder that an earlier call wrote.
        output: new or empty folder.
        tokenizer: file or folder of the visual tokenizer, if it is not in `source`.
        text_encoder: folder or hub name of the text encoder of a text refiner.
        class_names: of a class refiner; default is their numbers.
        task: "image" or "video", what a text pipeline is set up for; None for "image", but "video" at size 8 B.
        weights: name of the set of weights in a file that holds several; None for that which the authors sample with.
        hints: what keys and shapes do not tell.
        dtype: write weights in this format; None keeps theirs.
        quiet: draw no progress bar.

    Raises:
        GenrefineError: in one line, whatever is wrong with files, options or folders.
    """
    source, output, hints = Path(source), Path(output), hints or Hints()
    _require_new(output)
    sources = find_sources(source, weights)
    if tokenizer is not None:
        sources += [s for s in find_sources(Path(tokenizer)) if _is_tokenizer(s)]
    networks = _sorted_out(sources, hints, dtype, source)
    _refuse_unread(networks, hints)
    plan = plan_pipeline(networks, hints, text_encoder, class_names, task)
    with _staging(output) as folder:
        _write(plan, folder, dtype, quiet)
    return Conversion(output, plan.kind, plan.networks, plan.notes, plan.missing)


def _is_tokenizer(source: Source) -> bool:
    if source.ours is None:
        return True  # the refiner's place is taken, so anything else is refused by name later
    return source.ours[0] == "visual tokenizer"


def _sorted_out(sources: list[Source], hints: Hints, dtype: torch.dtype | None, where: Path) -> list[Network]:
    """Return at most one refiner and one tokenizer."""
    networks: dict[str, tuple[Network, Source]] = {}
    for source in sources:
        network = source.network(hints)
        role = "tokenizer" if network.kind == "visual tokenizer" else "refiner"
        if role in networks:
            earlier = networks[role][1].path
            raise GenrefineError(
                f"one {role} makes a model; '{earlier}' and '{source.path}' both hold one; give one of the files"
            )
        dtypes = {tensor.dtype for tensor in network.weights.values()}
        if len(dtypes) > 1 and dtype is None:
            formats = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in dtypes))
            raise GenrefineError(f"'{source.path}' mixes {formats}; choose the format to write with --dtype")
        chosen = [f"{network.kind}: weights '{source.chosen}' of the file"] if source.chosen else []
        network.notes[:] = chosen + [f"{network.kind}: {note}" for note in network.notes]
        networks[role] = network, source
    if not networks:
        raise GenrefineError(f"'{where}' holds no network; check the path")
    return [network for network, _ in networks.values()]


def _refuse_unread(networks: list[Network], hints: Hints) -> None:
    read = set().union(*(READS[network.kind] for network in networks))
    unread = sorted(hints.given() - read)
    if unread:
        kinds = " and a ".join(network.kind for network in networks)
        raise GenrefineError(f"{unread[0]} says nothing about a {kinds}; leave it out")


def _require_new(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise GenrefineError(f"output must be a new or empty folder; {output} is not; choose another")


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """Give a folder beside the output that takes its place in the end, or vanishes."""
    try:
        with appearing(output) as staging:
            yield staging
            _require_new(output)
    except OSError as error:
        raise GenrefineError(f"cannot write to '{output}' ({error.strerror}); make room, or choose another") from error


def _write(plan: Assembly, folder: Path, dtype: torch.dtype | None, quiet: bool) -> None:
    if dtype is not None and dtype not in WEIGHT_DTYPES:
        raise GenrefineError(f"weights are written as float32, bfloat16 or float16; got {dtype}; choose one of these")
    total = 0
    for network in plan.networks.values():
        size = total_bytes(network.weights) if dtype is None else network.num_parameters * dtype.itemsize
        total += 2 * size  # written, then read back
    with tqdm(total=total, unit="B", unit_scale=True, desc="converting", disable=quiet or None, leave=False) as bar:
        for name, network in plan.networks.items():
            part = folder / name
            part.mkdir(exist_ok=True)
            network.on_meta().save_config(part)
            write_weights(part / WEIGHTS, network.weights, dtype, bar.update)
            verify_weights(part / WEIGHTS, network.weights, dtype, bar.update)
    plan.write_rest(folder)
    write_checksums(folder)
