"""Evaluation of a class pipeline's samples, as a record that says how it was made.

A distance alone says little on a small set: beside it stand the floors, which real pictures reach. The kernel distance
is unbiased and comes first; a Frechet distance is only comparable between rows with equal numbers of pictures, hence
the rows over halves.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.evaluation.comparison import Comparison, Record, ReferenceDistance, require_comparable, scores_of
from genrefine.evaluation.features import EfficientNetFeatures, FeatureExtractor, collect_features
from genrefine.evaluation.manifold import Manifold
from genrefine.evaluation.neighbors import Memorization, memorization
from genrefine.evaluation.pictures import PictureSource, labels_of, pixel_batches
from genrefine.evaluation.samples import ClassSampler, draw_samples, labels_like, weights_fingerprint
from genrefine.evaluation.statistics import InceptionScore, Statistics
from genrefine.media.pixels import from_uint8


@dataclass(frozen=True)
class ClassEvaluation(Record):
    """Quality of a class pipeline's samples.

    Args:
        extractor: network, input size and scaling that the distances rest on.
        num_samples: samples, with seeds 0 .. num_samples - 1.
        labels: samples of each class, by name, in the proportions of the held-out pictures.
        sampling: sampling arguments given to the pipeline; the rest are the defaults of `sampler`.
        sampler: sampling defaults of the model.
        mean_steps, fewest_steps, most_steps: refinements per sample.
        mean_evaluations: network evaluations per sample, guidance included.
        comparisons: samples against held-out pictures first, then the floors.
        manifold: fidelity and diversity apart; None without held-out pictures.
        inception: inception score, where the extractor has classes.
        reference: distance to statistics in a file, where they were given.
        memorization: nearest training neighbors; None without training pictures.
        seed: of the subsets and halves.
        weights: SHA-256 of refiner and tokenizer weights.
    """

    extractor: str
    num_samples: int
    labels: dict[str, int]
    sampling: dict[str, Any]
    sampler: dict[str, Any]
    mean_steps: float
    fewest_steps: int
    most_steps: int
    mean_evaluations: float
    comparisons: tuple[Comparison, ...]
    manifold: Manifold | None
    inception: InceptionScore | None
    reference: ReferenceDistance | None
    memorization: Memorization | None
    seed: int
    weights: str


def evaluate_class_pipeline(
    pipe: ClassSampler,
    held_out: PictureSource | None,
    num_samples: int = 2000,
    training: PictureSource | None = None,
    extractor: FeatureExtractor | None = None,
    batch_size: int = 16,
    folder: Path | None = None,
    seed: int = 0,
    progress: bool = True,
    reference: Statistics | None = None,
    **sampling: Any,
) -> ClassEvaluation:
    """Draw samples in the class proportions of held-out pictures and measure their distance to them.

    Args:
        pipe: the pipeline.
        held_out: (pixels, label) items that the model was not trained on, of the pipeline's picture size. Without them
            all classes are drawn equally often and compared with the reference alone.
        num_samples: samples to draw, with seeds 0, 1, 2, ...
        training: the training pictures, for a second floor and the memorization figures.
        extractor: turns pictures into features; EfficientNet-Lite0 by default.
        batch_size: pictures per pipeline call.
        folder: where finished batches are kept, so that an interrupted run continues.
        seed: of subsets, halves and the choice of training pictures.
        progress: show progress bars.
        reference: statistics of real pictures, see `statistics`.
        sampling: arguments of the pipeline: `num_inference_steps=50`, `adaptive=True`, `guidance_scale=2.0`, ...

    Raises:
        GenrefineError: nothing to compare with, fewer than eight held-out pictures or samples, or labels that the
            pipeline does not have.
    """
    if (held_out is not None and len(held_out) < 8) or num_samples < 8:
        there = len(held_out) if held_out is not None else "none"
        raise GenrefineError(
            f"an evaluation needs eight held-out pictures and eight samples; got {there} and {num_samples}"
        )
    network = extractor if extractor is not None else EfficientNetFeatures()
    require_comparable(network, held_out, reference)
    num_classes = len(pipe.class_names)
    labels = labels_like(labels_of(held_out) if held_out is not None else range(num_classes), num_classes, num_samples)
    samples = draw_samples(pipe, labels, batch_size, folder, progress, **sampling)
    of_samples = collect_features(network, _clips(samples.frames))
    of_held_out = of_training = None
    if held_out is not None:
        of_held_out = collect_features(network, pixel_batches(held_out, batch_size, progress, "held-out features"))
    if training is not None:
        of_training = collect_features(network, pixel_batches(training, batch_size, progress, "training features"))
    generator = torch.Generator().manual_seed(seed)
    scores = scores_of(network, of_samples, of_held_out, of_training, reference, generator)
    near = None
    if of_held_out is not None and of_training is not None:
        near = memorization(of_samples, of_held_out, of_training)
    counts = Counter(labels)
    return ClassEvaluation(
        extractor=network.description,
        num_samples=num_samples,
        labels={name: counts[number] for number, name in enumerate(pipe.class_names) if counts[number]},
        sampling=dict(sampling),
        sampler={name: value for name, value in pipe.sampler.config.items() if not name.startswith("_")},
        mean_steps=float(samples.num_steps.double().mean()),
        fewest_steps=int(samples.num_steps.min()),
        most_steps=int(samples.num_steps.max()),
        mean_evaluations=float(samples.num_evaluations.double().mean()),
        comparisons=scores.comparisons,
        manifold=scores.manifold,
        inception=scores.inception,
        reference=scores.reference,
        memorization=near,
        seed=seed,
        weights=weights_fingerprint(pipe.refiner, pipe.visual_tokenizer),
    )


def _clips(frames: Tensor) -> Iterator[Float[Tensor, "_ 3 1 _ _"]]:
    for part in frames.split(32):
        yield from_uint8(part.permute(0, 2, 3, 1)[:, None])
