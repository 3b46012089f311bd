"""What runs share: opening sources and code stores, starting from trained weights, ending."""

import hashlib
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from diffusers.models.modeling_utils import ModelMixin
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from genrefine.data import ClipSource, CodeStore, ImageSource
from genrefine.data.record import DataRecord, require_same_data
from genrefine.data.store_files import DATA
from genrefine.errors import GenrefineError, Terminated
from genrefine.experiments.settings import (
    ClipSettings,
    DataSettings,
    LoraSettings,
    RefinerRun,
    TextRun,
    TokenizerRun,
    TokenizerSettings,
)
from genrefine.files import read_json
from genrefine.model_folder.find import find_part
from genrefine.pipelines import load_component
from genrefine.refiner import ClassRefiner
from genrefine.refiner.adapter import lora_config
from genrefine.refiner.nested import to_rounds
from genrefine.tokenizer import VisualTokenizer
from genrefine.training.interrupt import Interrupt
from genrefine.training.order import Grouped, groups_of

Run = TokenizerRun | RefinerRun | TextRun
_YOUNGER = {
    ("loss", "signal"): "nominal",
    ("loss", "motion"): 0.0,
    ("tokenizer", "encoder_outputs"): 1,
    ("tokenizer", "bounded"): True,
}
"""Settings that came later, and their neutral values: records of runs from before stay valid."""


def finish(steps: int, settings: Run) -> None:
    """Tell the caller when a run was interrupted; its state is saved by now."""
    if steps < settings.training.num_steps:
        raise Terminated if Interrupt.latest == signal.SIGTERM else KeyboardInterrupt


def describe(settings: Run) -> dict[str, Any]:
    """Return what identifies a run beside its training settings."""
    found = {k: v for k, v in asdict(settings).items() if k != "training"}
    for (group, name), default in _YOUNGER.items():
        values = found.get(group)
        if isinstance(values, dict) and values.get(name) == default:
            del values[name]
    if not found.get("lora", {}).get("rank"):
        found.pop("lora", None)  # records of runs from before there were adapters stay valid
    if not found.get("rounds"):
        found.pop("rounds", None)
    return found


def open_codes(folder: Path, source: ImageSource | ClipSource, tokenizer: VisualTokenizer, flip: bool) -> CodeStore:
    """Open a run's code store, making it first where it is not there yet.

    Raises:
        GenrefineError: the store is of another tokenizer or of other pictures.
    """
    state = PartialState()
    if state.is_main_process and not folder.exists():
        with tqdm(total=len(source), unit="item", desc="encoding") as bar:
            CodeStore.create(folder, tokenizer, source, flips=flip, progress=lambda done, _: bar.update(done - bar.n))
    state.wait_for_everyone()
    store = CodeStore.open(folder, tokenizer.fingerprint())
    _, frames, height, width = source[0][0].shape
    _require_same(
        folder,
        {
            "mirror images": (store.views == 2, flip),
            "size": (store.code_shape[1:], tokenizer.grid(frames, height, width)),
        },
    )
    if store.data is not None and (changed := store.data.changes(DataRecord.of(source, store.data))):
        raise GenrefineError(
            f"code store '{folder}' was made of other {source.kind.plural} than '{source.path}' holds now: {changed}; "
            "give them back as they were, or remove the store to encode them anew"
        )
    _require_same(
        folder,
        {
            "pictures": (store.names, list(source.names)),
            "classes": (list(store.class_names), list(source.class_names)),
            "labels": (store.labels[:: store.views].tolist(), list(source.labels)),
        },
    )
    return store


def _require_same(folder: Path, found: dict[str, tuple[Any, Any]]) -> None:
    wrong = [what for what, (own, expected) in found.items() if own != expected]
    if wrong:
        raise GenrefineError(
            f"code store '{folder}' was made with other {wrong[0]} than data.* and clips.* ask for; "
            "remove it, or give the settings it was made with"
        )


def keep_data(out: Path, sources: Sequence[ImageSource | ClipSource]) -> None:
    """Refuse to continue a run on data that has changed since it began.

    Raises:
        GenrefineError: says what changed.
    """
    state = PartialState()
    if state.is_main_process:
        advice = "give it back as it was to continue the run, or begin another one with another --out"
        require_same_data(out / DATA, sources, advice)
    state.wait_for_everyone()


def groups(source: ImageSource, data: DataSettings, views: int = 1) -> list[list[int]] | None:
    """Return the places of pictures that take turns, every picture being there ``views`` times in a row.

    Raises:
        GenrefineError: ``data.balance`` names a column that is not there.
    """
    names = [name.strip() for name in data.balance.split(",") if name.strip()]
    if not names:
        return None
    return groups_of([row for row in zip(*map(source.column, names), strict=True) for _ in range(views)])


def balanced(dataset: Dataset[Any], source: ImageSource, data: DataSettings) -> Dataset[Any]:
    """Return the pictures so that those that take turns count as one."""
    found = groups(source, data)
    return dataset if found is None else Grouped(dataset, found)


def trained_part(setting: str, name: str, part: str) -> Path:
    """Return the folder of a network that a setting names, by the rule of `genrefine.load`.

    Raises:
        GenrefineError: there is none; the setting is named.
    """
    try:
        if name and (place := find_part(name, part)).is_dir():
            return place
        reason = f"got {name!r}"
    except GenrefineError as error:
        reason = str(error)
    raise GenrefineError(f"{setting} must be the folder of a trained {part.split('_')[-1]}, or of a model: {reason}")


def load_tokenizer(folder: str, rounds: int = 0) -> VisualTokenizer:
    """Load the tokenizer that a refiner is built on, frozen, with other rounds if they are not 0.

    Raises:
        GenrefineError: there is none, or the rounds are impossible.
    """
    place = trained_part("tokenizer", folder, "visual_tokenizer")
    tokenizer: VisualTokenizer = load_component(place, VisualTokenizer).eval()
    tokenizer = tokenizer.with_rounds(rounds) if rounds else tokenizer
    tokenizer.requires_grad_(False)
    return tokenizer


def open_source(data: DataSettings, split: str | None = None) -> ImageSource:
    """Open the pictures that the settings name."""
    if not data.source:
        raise GenrefineError(
            "data.source must name an image folder or data set; got nothing; use --set data.source=..."
        )
    return ImageSource(
        data.source,
        size=data.size,
        split=split or data.split or None,
        image_column=data.image_column,
        label_column=data.label_column or None,
        caption_column=_columns(data.caption_column),
        keep=data.where(),
        on_error=data.on_error,
    )


def open_clips(clips: ClipSettings, split: str | None = None) -> ClipSource:
    """Open the clips that the settings name."""
    return ClipSource(
        clips.source,
        num_frames=clips.num_frames,
        size=clips.size,
        frames_per_second=clips.frames_per_second or None,
        split=split or clips.split or None,
        video_column=clips.video_column,
        caption_column=_columns(clips.caption_column),
        label_column=clips.label_column or None,
        keep=clips.where(),
        on_error=clips.on_error,
    )


def _columns(names: str) -> str | list[str] | None:
    columns = [name.strip() for name in names.split(",") if name.strip()]
    return None if not columns else columns[0] if len(columns) == 1 else columns


def require_squares(settings: TokenizerRun | RefinerRun) -> None:
    """Refuse buckets of sizes, which only text refiners know."""
    if settings.data.buckets:
        raise GenrefineError(
            f"data.buckets must be empty but for text refiners; got {settings.data.buckets!r}; leave it out"
        )


def build_tokenizer(settings: TokenizerSettings) -> VisualTokenizer:
    """Make a tokenizer and, if asked, start it from the weights of another where names and shapes agree."""
    tokenizer = VisualTokenizer(**settings.arguments())
    start_from(tokenizer, settings.start, "tokenizer")
    return tokenizer


def start_from(
    network: ModelMixin,
    name: str,
    part: str,
    class_names: Sequence[str] = (),
    tokenizer: VisualTokenizer | None = None,
) -> list[str]:
    """Take over the weights of another network of the same class where names and shapes agree, and say what is new.

    Args:
        network: changed in place.
        name: what ``save_pretrained`` wrote, network or pipeline, or a shipped model; nothing happens if it is empty.
        part: the group of settings, for messages, and the component of a pipeline: "tokenizer" or "refiner".
        class_names: of a class refiner. A class of a pipeline with the same name keeps its row of the class table, any
            other one starts as the null class; a refiner alone has no names, so its classes are taken by number.
        tokenizer: of a refiner. If the other refiner has bit codes of as many latent channels and another number of
            rounds (its own tokenizer is read beside it), the rounds that both know keep their weights.

    Returns:
        Names of the weights that are not taken.

    Raises:
        GenrefineError: the folder is missing, broken, or shares no weight with the network.
    """
    if not name:
        return []
    folder = trained_part(f"{part}.start", name, "visual_tokenizer" if part == "tokenizer" else part)
    start: Any = load_component(folder, type(network))
    note = ""
    if isinstance(start, ClassRefiner):
        rows = class_rows(folder, start.sizes.num_classes, class_names)
        if rows != list(range(start.sizes.num_classes)):
            start.choose_classes(rows)
            cast(Any, network).class_rows = rows
            note = f"; {rows.count(None)} of {len(rows)} classes are new and start as the null class"
    theirs, own = start.state_dict(), network.state_dict()
    rounds = _other_rounds(folder, tokenizer) if tokenizer else None
    if tokenizer and rounds:
        class_major = isinstance(start, ClassRefiner)
        theirs = to_rounds(theirs, tokenizer.code_channels, tokenizer.code_classes, class_major)
        note += f"; codes of {tokenizer.hbq.rounds} rounds start from those of {rounds}"
    new = [k for k in own if k not in theirs or theirs[k].shape != own[k].shape]
    if len(new) == len(own):
        raise GenrefineError(f"no weight of {name} fits this {part}; choose the same sizes or leave {part}.start out")
    network.load_state_dict({k: v if k in new else theirs[k].to(v.dtype) for k, v in own.items()})
    tqdm.write(f"started from {name}; new weights: {', '.join(new) or 'none'}{note}")
    return new


def _other_rounds(folder: Path, tokenizer: VisualTokenizer) -> int | None:
    """Return the rounds of the tokenizer beside a refiner, if its codes differ from the given one's in nothing else."""
    place, own = folder.parent / "visual_tokenizer", tokenizer.hbq
    if not place.is_dir():
        return None
    theirs: Any = VisualTokenizer.load_config(str(place))
    if theirs["layout"] != "bit" or own.layout != "bit" or theirs["latent_dim"] != tokenizer.latent_dim:
        return None
    return None if theirs["rounds"] == own.rounds else int(theirs["rounds"])


def start_refiner(
    refiner: Any, start: str, lora: LoraSettings, tokenizer: VisualTokenizer, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """Start a refiner from another one, and put an adapter beside its weights if the settings ask for one.

    Returns:
        What identifies the weights that the adapter goes with, for the record of the run.

    Raises:
        GenrefineError: an adapter without weights that it could go with.
    """
    if not lora.rank:
        start_from(refiner, start, "refiner", class_names, tokenizer)
        return {}
    if not start:
        raise GenrefineError("an adapter (lora.rank) goes beside trained weights; name them by refiner.start=...")
    folder = trained_part("refiner.start", start, "refiner")
    theirs = type(refiner).load_config(str(folder))
    given = {key: value for key, value in refiner.config.items() if key != "num_classes" and not key.startswith("_")}
    differing = [key for key, value in given.items() if _plain(theirs.get(key, value)) != _plain(value)]
    if differing:
        needed = " ".join(f"refiner.{key}={theirs[key]}" for key in differing)
        raise GenrefineError(f"an adapter needs the sizes of {start}; use --set {needed}")
    start_from(refiner, start, "refiner", class_names)
    base = hashlib.sha256()
    for name, tensor in sorted(refiner.state_dict().items()):
        base.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    refiner.add_adapter(lora_config(refiner, lora.rank, lora.scale, lora.parts))
    return {"base": base.hexdigest()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def class_rows(folder: Path, num_classes: int, class_names: Sequence[str]) -> list[int | None]:
    """Return which class of the refiner in a folder each class name starts from, None for the null class."""
    index = folder.parent / "model_index.json"
    known: Any = read_json(index).get("class_names") if index.is_file() else None
    if known is None:
        return [number if number < num_classes else None for number in range(len(class_names))]
    places = {name: number for number, name in enumerate(known)}
    return [places.get(name) for name in class_names]
