"""Sets of pictures that are there already: how far they are from real ones, and which of two is nearer.

A set is a folder of samples (`sample_folder`), or any pictures, whatever made them: so that another model is judged by
the same features, references and floors. Two sets are paired by seed and label or prompt, or by file name, and compared
by `paired`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from genrefine.data import ImageSource
from genrefine.errors import GenrefineError
from genrefine.evaluation.comparison import Comparison, Record, ReferenceDistance, Scores, require_comparable, scores_of
from genrefine.evaluation.features import EfficientNetFeatures, FeatureExtractor, collect_features
from genrefine.evaluation.frechet import frechet_distance
from genrefine.evaluation.manifold import Manifold, manifold
from genrefine.evaluation.paired import PairedDistance, paired_kernel_distance
from genrefine.evaluation.pictures import PictureSource, pixel_batches
from genrefine.evaluation.sample_folder import claim_of, read_samples
from genrefine.evaluation.statistics import InceptionScore, Statistics
from genrefine.media.pixels import from_uint8

MOST = 10_000
"""Pairs, and held-out pictures, of a paired comparison: their kernels take 0.8 GB each."""


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures or clips, each with a key that its partner in another set has too.

    Args:
        name: what to call it.
        keys: seed and label or prompt of a sample, name of a file.
        source: the pictures, in the order of the keys.
        made_by: what decided the samples; empty for files.
        mean_evaluations: network evaluations of a sample; None for files.
    """

    name: str
    keys: Sequence[str]
    source: PictureSource
    made_by: dict[str, Any]
    mean_evaluations: float | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first picture."""
        height, width = _pixels(self.source[0]).shape[-2:]
        return height, width

    def batches(self, keys: Sequence[str], batch_size: int, progress: bool) -> Iterator[Float[Tensor, "_ 3 _ _ _"]]:
        """Yield the pictures of some keys, in their order."""
        places = {key: place for place, key in enumerate(self.keys)}
        return pixel_batches(_Some(self.source, [places[key] for key in keys]), batch_size, progress, self.name)


@dataclass(frozen=True)
class PictureEvaluation(Record):
    """How far a set of pictures is from real ones.

    Args:
        extractor: network, input size and scaling that everything rests on.
        pictures: what the set is called.
        num_pictures: of the set.
        made_by: what decided the samples; empty for files.
        comparisons: the set against held-out pictures first, then the floors.
        manifold: fidelity and diversity apart.
        inception: inception score, where the extractor has classes.
        reference: distance to statistics in a file, where they were given.
        seed: of subsets and halves.
    """

    extractor: str
    pictures: str
    num_pictures: int
    made_by: dict[str, Any]
    comparisons: tuple[Comparison, ...]
    manifold: Manifold | None
    inception: InceptionScore | None
    reference: ReferenceDistance | None
    seed: int


@dataclass(frozen=True)
class PairEvaluation(Record):
    """Which of two sets is nearer to real pictures.

    Args:
        extractor: network, input size and scaling that everything rests on.
        names: of the two sets.
        different: settings that decided the samples and are not the same: name to the two values.
        paired: kernel distances and their difference, second - first, with intervals.
        frechet: Frechet distance of either.
        manifolds: fidelity and diversity of either.
        mean_evaluations: network evaluations of a sample of either; None for files.
        seed: of the bootstrap.
    """

    extractor: str
    names: tuple[str, str]
    different: dict[str, tuple[Any, Any]]
    paired: PairedDistance
    frechet: tuple[float, float]
    manifolds: tuple[Manifold, Manifold]
    mean_evaluations: tuple[float | None, float | None]
    seed: int


@dataclass(frozen=True)
class StatisticsRecord(Record):
    """What was written, and how.

    Args:
        file: where the statistics are.
        extractor: network, input size and scaling.
        num_pictures: pictures described.
    """

    file: str
    extractor: str
    num_pictures: int


def read_set(path: str | Path, size: int | None = None) -> PictureSet:
    """Open a folder of samples, or pictures.

    Args:
        path: a folder that an evaluation kept its samples in; or anything that `data.ImageSource` reads.
        size: side that pictures of files are cropped and resized to; as they are by default.

    Raises:
        GenrefineError: neither is there, or samples are missing.
    """
    folder = Path(path)
    if not (folder / "run.json").is_file():
        source = ImageSource(path, size=size)
        return PictureSet(folder.name, source.names, source, {}, None)
    claim, samples = claim_of(folder), read_samples(folder)
    frames = samples["frames"]
    pixels = _Bytes(frames if frames.ndim == 5 else rearrange(frames, "n c h w -> n 1 h w c"))
    shown = claim.get("labels", claim.get("prompts"))
    if not isinstance(shown, list) or len(shown) < len(pixels):
        raise GenrefineError(f"'{folder}/run.json' must say what every sample shows; draw the samples again")
    keys = [f"seed {seed}: {what}" for seed, what in zip(range(len(pixels)), shown, strict=False)]
    made_by = {name: value for name, value in claim.items() if name not in ("labels", "prompts")}
    return PictureSet(folder.name, keys, pixels, made_by, float(samples["num_evaluations"].double().mean()))


def evaluate_pictures(
    pictures: PictureSet,
    held_out: PictureSource | None,
    reference: Statistics | None = None,
    extractor: FeatureExtractor | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> PictureEvaluation:
    """Measure the distance of a set to held-out pictures, or to statistics in a file.

    Args:
        pictures: the set, eight or more.
        held_out: real pictures.
        reference: statistics of real pictures, see `statistics`.
        extractor: turns pictures into features; EfficientNet-Lite0 by default.
        batch_size: pictures described at a time.
        seed: of subsets and halves.
        progress: show progress bars.

    Raises:
        GenrefineError: fewer than eight pictures, or nothing to compare them with.
    """
    network = extractor if extractor is not None else EfficientNetFeatures()
    if len(pictures.keys) < 8 or (held_out is not None and len(held_out) < 8):
        raise GenrefineError(
            "a distance needs eight pictures and eight held-out ones; got "
            f"{len(pictures.keys)} and {len(held_out) if held_out is not None else 'none'}"
        )
    require_comparable(network, held_out, reference)
    features = collect_features(network, pictures.batches(pictures.keys, batch_size, progress))
    of_held_out = None
    if held_out is not None:
        of_held_out = collect_features(network, pixel_batches(held_out, batch_size, progress, "held-out features"))
    scores: Scores = scores_of(network, features, of_held_out, None, reference, torch.Generator().manual_seed(seed))
    return PictureEvaluation(
        extractor=network.description,
        pictures=pictures.name,
        num_pictures=len(pictures.keys),
        made_by=pictures.made_by,
        comparisons=scores.comparisons,
        manifold=scores.manifold,
        inception=scores.inception,
        reference=scores.reference,
        seed=seed,
    )


def evaluate_pairs(
    first: PictureSet,
    second: PictureSet,
    held_out: PictureSource,
    extractor: FeatureExtractor | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
    num_resamplings: int = 1000,
) -> PairEvaluation:
    """Compare two sets by the pictures that both have.

    Kernels of all pairs of pictures are held at once: of more than `MOST` pairs the first are taken, of more held-out
    pictures that many spread over them; the record says how many there were.

    Args:
        first, second: the sets, with eight keys in common or more.
        held_out: real pictures.
        extractor: turns pictures into features; EfficientNet-Lite0 by default.
        batch_size: pictures described at a time.
        seed: of the bootstrap.
        progress: show progress bars.
        num_resamplings: of the bootstrap.

    Raises:
        GenrefineError: too few pairs, or too few held-out pictures.
    """
    there = set(second.keys)
    keys = [key for key in first.keys if key in there]
    if len(keys) < 8:
        raise GenrefineError(
            f"'{first.name}' and '{second.name}' must have eight pictures of the same seed and label or prompt, or of "
            f"the same file name; got {len(keys)} of {len(first.keys)} and {len(second.keys)}"
        )
    keys = keys[:MOST]
    if len(held_out) > MOST:
        held_out = _Some(held_out, [place * len(held_out) // MOST for place in range(MOST)])
    network = extractor if extractor is not None else EfficientNetFeatures()
    one, other = (collect_features(network, part.batches(keys, batch_size, progress)) for part in (first, second))
    real = collect_features(network, pixel_batches(held_out, batch_size, progress, "held-out features"))
    generator = torch.Generator().manual_seed(seed)
    return PairEvaluation(
        extractor=network.description,
        names=(first.name, second.name),
        different=_different(first.made_by, second.made_by),
        paired=paired_kernel_distance(one, other, real, generator, num_resamplings),
        frechet=(frechet_distance(one, real), frechet_distance(other, real)),
        manifolds=(manifold(one, real), manifold(other, real)),
        mean_evaluations=(first.mean_evaluations, second.mean_evaluations),
        seed=seed,
    )


class _Bytes:
    """Frames as items of pixels, turned into floats when they are asked for."""

    def __init__(self, frames: UInt8[Tensor, "samples frames height width 3"]) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Float[Tensor, "3 frames height width"]:
        return from_uint8(self.frames[index : index + 1])[0]


class _Some:
    """Some items of a source."""

    def __init__(self, source: PictureSource, places: Sequence[int]) -> None:
        self.source, self.places = source, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        return self.source[self.places[index]]


def _pixels(item: Any) -> Tensor:
    pixels: Tensor = item if isinstance(item, Tensor) else item[0]
    return pixels


def _different(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, those inside of settings by their own names."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= _different(a, b)
        elif a != b:
            found[name] = (a, b)
    return found
