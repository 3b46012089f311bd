"""Which folder the networks at hand make: a pipeline with the published sampling settings, or single components."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genrefine.conditioning.text_encoder import MAX_TOKENS, TextEncoder
from genrefine.convert.class_refiner import published_size
from genrefine.convert.networks import Hints, Network, with_codes
from genrefine.convert.published import CLASS_BUDGET, class_sampler, text_sampler
from genrefine.convert.text_refiner import JOINT_ONLY
from genrefine.errors import GenrefineError
from genrefine.pipelines import ClassPipeline, TextPipeline
from genrefine.sampling.component import RefinementSampler

TASKS: dict[str, dict[str, Any]] = {
    "image": {"tau": 1.1, "height": 1024, "width": 1024},
    "video": {"tau": 1.0, "height": 480, "width": 848},
}
"""Temperature and size of the published tools: stills of the budget 1M, clips of the budget 0.41M."""
FRAMES_PER_SECOND = 16.0


@dataclass(frozen=True)
class Assembly:
    """What will be written.

    Args:
        kind: of the folder.
        networks: by the names of their folders; "" for the folder itself.
        notes: what was not told by keys and shapes, and how it is known.
        missing: what a pipeline would need besides.
        write_rest: writes what there is besides networks into a folder.
    """

    kind: str
    networks: dict[str, Network]
    notes: list[str]
    missing: list[str]
    write_rest: Callable[[Path], None]


def plan_pipeline(
    networks: list[Network],
    hints: Hints,
    text_encoder: str | Path | None,
    class_names: list[str] | None,
    task: str | None,
) -> Assembly:
    """Decide what the networks make.

    Args:
        networks: at most one refiner and one tokenizer.
        hints: by the caller.
        text_encoder: folder or hub name.
        class_names: one per class.
        task: "image" or "video".

    Raises:
        GenrefineError: the parts do not fit each other, or an option has nothing to act on.
    """
    refiner = next((network for network in networks if network.kind != "visual tokenizer"), None)
    tokenizer = next((network for network in networks if network.kind == "visual tokenizer"), None)
    is_text = refiner is not None and refiner.kind == "text refiner"
    makes_classes = refiner is not None and not is_text and tokenizer is not None
    makes_text = is_text and tokenizer is not None and text_encoder is not None
    if class_names is not None and not makes_classes:
        raise GenrefineError("class names go into the pipeline of a class refiner and a tokenizer; leave them out")
    if text_encoder is not None and not makes_text:
        raise GenrefineError("a text encoder goes with a text refiner and a tokenizer; give both, or leave it out")
    if task is not None and not makes_text:
        raise GenrefineError("the task goes into the pipeline of a text refiner; leave it out")
    if refiner is not None and tokenizer is not None:
        tokenizer = _speaking(tokenizer, refiner, hints)
    if refiner is not None and tokenizer is not None and makes_classes:
        return _class_pipeline(refiner, tokenizer, class_names)
    if refiner is not None and tokenizer is not None and text_encoder is not None:
        return _text_pipeline(refiner, tokenizer, text_encoder, task)
    missing = []
    if tokenizer is None:
        missing.append("the visual tokenizer: --tokenizer FILE_OR_DIR")
    if refiner is None:
        missing.append("a refiner: convert its file with this folder as --tokenizer")
    if is_text:
        missing.append("the text encoder: --text-encoder DIR_OR_NAME")
    notes = [note for network in (refiner, tokenizer) if network is not None for note in network.notes]
    if refiner is not None and tokenizer is not None:
        parts = {"refiner": refiner, "visual_tokenizer": tokenizer}
        return Assembly("text refiner and visual tokenizer", parts, notes, missing, _nothing)
    (only,) = networks
    return Assembly(only.kind, {"": only if tokenizer is None else tokenizer}, notes, missing, _nothing)


def _speaking(tokenizer: Network, refiner: Network, hints: Hints) -> Network:
    """Give a tokenizer the rounds and layout of the refiner's codes, which its weights do not know.

    Raises:
        GenrefineError: it cannot have them, or the caller says others.
    """
    dim, channels, classes = (
        tokenizer.config["latent_dim"],
        refiner.config["code_channels"],
        refiner.config["code_classes"],
    )
    layout = "bit" if classes == 2 and channels != dim else "index"
    rounds = channels // dim if layout == "bit" else (classes - 1).bit_length()
    fits = (rounds * dim, 2) if layout == "bit" else (dim, 2**rounds)
    if fits != (channels, classes):
        raise GenrefineError(
            f"refiner and tokenizer must speak the same codes; the refiner has {channels} channels of {classes} "
            f"classes, the tokenizer {dim} latent channels; use parts that were trained together"
        )
    for name, value in (("rounds", rounds), ("layout", layout)):
        given = getattr(hints, name)
        if given is not None and given != value:
            raise GenrefineError(f"{name} of this refiner's codes is {value}; got {given}; leave it out")
    spoken = with_codes(tokenizer, Hints(rounds=rounds, layout=layout, bounded=hints.bounded))
    notes = [note for note in tokenizer.notes if "weights '" in note or "latents: " in note]
    notes.append(f"visual tokenizer: codes: {rounds} rounds, {layout} layout, as the refiner has them")
    return Network(spoken.kind, spoken.config, spoken.weights, spoken.renames, notes)


def _class_pipeline(refiner: Network, tokenizer: Network, class_names: list[str] | None) -> Assembly:
    config = refiner.config
    size = published_size(config["depth"], config["width"])
    is_calibrated = size == "B" and config["code_classes"] > 2 and config["num_classes"] == 1000
    sampler = class_sampler(entropy_steps=dict(CLASS_BUDGET) if is_calibrated else None)
    pipeline = ClassPipeline(refiner.on_meta(), tokenizer.on_meta(), sampler, class_names)
    of = "this model" if size == "B" else "size B; the authors give none for this one"
    note = f"sampling: 50 steps, guidance 2.35 in (0.44, 1), temperature 1.31, the published evaluation of {of}"
    return Assembly(
        "class pipeline",
        {"refiner": refiner, "visual_tokenizer": tokenizer},
        [*refiner.notes, *tokenizer.notes, note],
        [],
        lambda folder: _write_pipeline(pipeline, sampler, folder),
    )


def _text_pipeline(refiner: Network, tokenizer: Network, text_encoder: str | Path, task: str | None) -> Assembly:
    config = refiner.config
    chosen = task or ("video" if (config["depth"], config["width"]) == JOINT_ONLY else "image")
    if chosen not in TASKS:
        raise GenrefineError(f"task must be one of {', '.join(TASKS)}; got {chosen!r}; choose one of these")
    setting = TASKS[chosen]
    sampler = text_sampler(config["attention"], tau=setting["tau"])
    encoder = TextEncoder.from_pretrained(str(text_encoder), MAX_TOKENS, dtype="auto")
    pipeline = TextPipeline(
        refiner.on_meta(),
        tokenizer.on_meta(),
        sampler,
        encoder.model,
        encoder.tokenizer,
        height=setting["height"],
        width=setting["width"],
        frames_per_second=FRAMES_PER_SECOND,
    )

    def write_rest(folder: Path) -> None:
        _write_pipeline(pipeline, sampler, folder)
        stored = encoder.model
        if stored.dtype == torch.float32:
            stored = stored.to(torch.float16)  # as every text pipeline of ours stores its encoder
        stored.save_pretrained(folder / "text_encoder")
        encoder.tokenizer.save_pretrained(folder / "tokenizer")

    how = "as asked" if task else "by default; --task changes it"
    note = (
        f"sampling: 50 steps, guidance 3, temperature {setting['tau']}, {setting['width']} x {setting['height']} "
        f"pixels, as published for {chosen}s, {how}"
    )
    return Assembly(
        "text pipeline",
        {"refiner": refiner, "visual_tokenizer": tokenizer},
        [*refiner.notes, *tokenizer.notes, note],
        [],
        write_rest,
    )


def _write_pipeline(pipeline: Any, sampler: RefinementSampler, folder: Path) -> None:
    pipeline.save_config(folder)
    sampler.save_pretrained(folder / "sampler")


def _nothing(folder: Path) -> None:
    """Write nothing: component folders hold their network alone."""
