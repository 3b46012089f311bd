"""Whether a text pipeline draws what captions say, as a record that says how it was measured.

One picture is made of each of some captions of real pictures. Its nearest real pictures tell whether it shows the
concept and the style that were asked for (`genrefine.evaluation.concepts`), its kernel distance to the real pictures of
these captions' split how real it looks, and its number of steps how soon it was finished.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.evaluation.comparison import Comparison, Record, scores_of
from genrefine.evaluation.concepts import Accuracy, Shown, ceiling, chance, concept_accuracy, nearest_real
from genrefine.evaluation.features import EfficientNetFeatures, FeatureExtractor, collect_features
from genrefine.evaluation.manifold import Manifold
from genrefine.evaluation.pictures import CaptionedSource, pixel_batches
from genrefine.evaluation.prompt_samples import TextSampler, draw_prompts
from genrefine.evaluation.samples import weights_fingerprint
from genrefine.evaluation.statistics import InceptionScore


@dataclass(frozen=True)
class Columns:
    """Where a data set says what its pictures show.

    Args:
        concept, style: columns of the concept and of the style.
        group: column of the kind of picture; empty for none.
    """

    concept: str = "concept"
    style: str = "style"
    group: str = "group"

    def shown(self, source: CaptionedSource) -> Shown:
        """Return what the pictures of a source show."""
        return Shown(*(tuple(map(str, source.column(name))) for name in (self.concept, self.style)))


@dataclass(frozen=True)
class Gallery:
    """The real pictures that samples are compared with.

    Args:
        features: of the pictures of the asked split first, then of the others.
        shown: what they show.
        num_asked: pictures of the asked split.
    """

    features: Float[Tensor, "gallery features"]
    shown: Shown
    num_asked: int


@dataclass(frozen=True)
class Group:
    """The samples of one kind of picture.

    Args:
        name: of the group.
        mean_steps: refinements per sample.
        accuracy: of its samples.
    """

    name: str
    mean_steps: float
    accuracy: Accuracy


@dataclass(frozen=True)
class PromptEvaluation(Record):
    """Quality of a text pipeline's pictures.

    Args:
        extractor: network, input size and scaling that everything rests on.
        num_prompts: samples, with seeds 0 .. num_prompts - 1.
        num_gallery: real pictures among which the nearest are sought.
        accuracies: of samples, ceiling and chance, see `genrefine.evaluation.concepts`.
        groups: samples by kind of picture, soonest finished first.
        comparisons: samples against the real pictures of the split first, then the floors.
        manifold: fidelity and diversity apart, among the real pictures of the split.
        inception: inception score, where the extractor has classes.
        sampling: sampling arguments given to the pipeline; the rest are the defaults of `sampler`.
        sampler: sampling defaults of the model.
        mean_steps, fewest_steps, most_steps: refinements per sample.
        mean_evaluations: network evaluations per sample, guidance included.
        seed: of the choice of captions, of ceiling and chance, of subsets and halves.
        weights: SHA-256 of the weights of refiner, visual tokenizer and text encoder.
    """

    extractor: str
    num_prompts: int
    num_gallery: int
    accuracies: tuple[Accuracy, ...]
    groups: tuple[Group, ...]
    comparisons: tuple[Comparison, ...]
    manifold: Manifold | None
    inception: InceptionScore | None
    sampling: dict[str, Any]
    sampler: dict[str, Any]
    mean_steps: float
    fewest_steps: int
    most_steps: int
    mean_evaluations: float
    seed: int
    weights: str


def gallery_of(
    extractor: FeatureExtractor,
    asked: CaptionedSource,
    others: Sequence[CaptionedSource],
    columns: Columns,
    progress: bool = True,
) -> Gallery:
    """Describe real pictures by features.

    Args:
        extractor: turns pictures into features.
        asked: pictures of the split whose captions are asked for.
        others: further pictures that samples may be nearest to.
        columns: where the sources say what they show.
        progress: show progress bars.
    """
    sources = [asked, *others]
    features = [collect_features(extractor, pixel_batches(one, 32, progress, "real features")) for one in sources]
    shown = [columns.shown(one) for one in sources]
    concepts = tuple(concept for one in shown for concept in one.concepts)
    return Gallery(
        torch.cat(features), Shown(concepts, tuple(style for one in shown for style in one.styles)), len(asked)
    )


def choose_prompts(num_available: int, num_prompts: int, seed: int) -> list[int]:
    """Return the places of some captioned items, drawn without replacement; all in order if that many are asked.

    Raises:
        GenrefineError: fewer than one is asked for.
    """
    if num_prompts < 1:
        raise GenrefineError(f"num_prompts must be at least 1; got {num_prompts}")
    if num_prompts >= num_available:
        return list(range(num_available))
    order = torch.randperm(num_available, generator=torch.Generator().manual_seed(seed))
    return order[:num_prompts].tolist()


def evaluate_prompts(
    pipe: TextSampler,
    asked: CaptionedSource,
    others: Sequence[CaptionedSource] = (),
    num_prompts: int = 500,
    columns: Columns | None = None,
    extractor: FeatureExtractor | None = None,
    batch_size: int = 16,
    folder: Path | None = None,
    seed: int = 0,
    progress: bool = True,
    gallery: Gallery | None = None,
    **sampling: Any,
) -> PromptEvaluation:
    """Make one picture of each of some captions and say whether it shows what they ask for.

    Args:
        pipe: the pipeline.
        asked: real pictures with captions, of one split; the first caption of a picture is its prompt.
        others: real pictures of other splits, which belong to the gallery too.
        num_prompts: captions to draw; all of them if there are fewer.
        columns: where the sources say what they show.
        extractor: turns pictures into features; EfficientNet-Lite0 by default.
        batch_size: pictures per pipeline call.
        folder: where finished batches are kept, so that an interrupted run continues.
        seed: of the choice of captions, of ceiling and chance, of subsets and halves.
        progress: show progress bars.
        gallery: what `gallery_of` returned for the same sources, to use it again.
        sampling: arguments of the pipeline: `num_inference_steps=50`, `adaptive=True`, `guidance_scale=2.0`, ...

    Raises:
        GenrefineError: pictures without captions, fewer than eight of them, or a column that does not exist.
    """
    columns = columns or Columns()
    if not asked.captions:
        raise GenrefineError("prompts are captions of real pictures; got pictures without; name their caption column")
    places = choose_prompts(len(asked), num_prompts, seed)
    if len(places) < 8:
        raise GenrefineError(f"an evaluation needs eight captions and as many samples; got {len(places)}")
    groups = asked.column(columns.group) if columns.group else []
    network = extractor if extractor is not None else EfficientNetFeatures()
    wanted = columns.shown(asked).at(places)
    samples = draw_prompts(pipe, [asked.captions[i][0] for i in places], batch_size, folder, progress, **sampling)
    real = gallery or gallery_of(network, asked, others, columns, progress)
    features = collect_features(network, samples.pixels.split(32))
    nearest = nearest_real(features, real.features)
    asked_features = real.features[: real.num_asked]
    scores = scores_of(network, features, asked_features, None, None, torch.Generator().manual_seed(seed))
    steps = samples.num_steps.double()
    found = []
    for name in sorted({groups[i] for i in places} if groups else ()):
        own = [number for number, place in enumerate(places) if groups[place] == name]
        accuracy = concept_accuracy(name, nearest[own], wanted.at(own), real.shown)
        found.append(Group(name, float(steps[own].mean()), accuracy))
    return PromptEvaluation(
        extractor=network.description,
        num_prompts=len(places),
        num_gallery=len(real.shown),
        accuracies=(
            concept_accuracy("samples", nearest, wanted, real.shown),
            ceiling(wanted, real.features, real.shown, seed),
            chance(wanted, real.features, real.shown, seed),
        ),
        groups=tuple(sorted(found, key=lambda group: group.mean_steps)),
        comparisons=scores.comparisons,
        manifold=scores.manifold,
        inception=scores.inception,
        sampling=dict(sampling),
        sampler={name: value for name, value in pipe.sampler.config.items() if not name.startswith("_")},
        mean_steps=float(steps.mean()),
        fewest_steps=int(steps.min()),
        most_steps=int(steps.max()),
        mean_evaluations=float(samples.num_evaluations.double().mean()),
        seed=seed,
        weights=weights_fingerprint(pipe.refiner, pipe.visual_tokenizer, pipe.text_encoder),
    )
