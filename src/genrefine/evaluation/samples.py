"""Draw many pictures from a pipeline, so that an interrupted run goes on where it stopped.

Sample i has seed i and a label from a given list, so that the set is the same however it is cut into batches. With a
folder, finished batches are kept there, see `sample_folder`; one that holds samples of another model, of other settings
or of other labels is refused.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from genrefine.errors import GenrefineError
from genrefine.evaluation.sample_folder import draw_batches

_PARTS = ("frames", "labels", "num_steps", "num_evaluations")


@runtime_checkable
class ClassSampler(Protocol):
    """What an evaluation asks of a class pipeline."""

    refiner: nn.Module
    visual_tokenizer: nn.Module
    sampler: Any

    @property
    def class_names(self) -> list[str]:
        """Name of each class."""
        ...

    def __call__(self, class_labels: Any, **arguments: Any) -> Any:
        """Make pictures."""
        ...


@dataclass(frozen=True)
class Samples:
    """Pictures of seeds 0, 1, 2, ...

    Args:
        frames: bytes.
        labels: class of each picture.
        num_steps: refinements of each picture.
        num_evaluations: network evaluations of each picture, guidance included.
    """

    frames: UInt8[Tensor, "pictures 3 height width"]
    labels: Int[Tensor, "pictures"]
    num_steps: Int[Tensor, "pictures"]
    num_evaluations: Int[Tensor, "pictures"]


def labels_like(reference: Sequence[int], num_classes: int, count: int) -> list[int]:
    """Return labels in the proportions of a reference, in a fixed mixed order.

    Args:
        reference: labels of the reference pictures.
        num_classes: number of classes.
        count: how many labels to return; every class gets its share, rounded by largest remainder.

    Raises:
        GenrefineError: there is no reference label, or one is out of range.
    """
    if not len(reference) or min(reference) < 0 or max(reference) >= num_classes:
        raise GenrefineError(
            f"reference labels must lie in 0..{num_classes - 1}; got {sorted(set(reference))[-3:] or 'none'}; do the "
            "pipeline and the data have the same classes?"
        )
    shares = torch.bincount(torch.tensor(reference), minlength=num_classes).double() * count / len(reference)
    counts = shares.floor().long()
    # Ties of the remainder go to the smaller class number on every machine: a stable sort.
    largest = torch.argsort(shares - counts, descending=True, stable=True)[: count - int(counts.sum())]
    counts[largest] += 1
    labels = torch.repeat_interleave(torch.arange(num_classes), counts)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    mixed: list[int] = labels[order].tolist()
    return mixed


def draw_samples(
    pipe: ClassSampler,
    labels: Sequence[int],
    batch_size: int = 16,
    folder: Path | None = None,
    progress: bool = True,
    **sampling: Any,
) -> Samples:
    """Make one picture per label, with seeds 0, 1, 2, ...

    Args:
        pipe: the pipeline.
        labels: class of each picture.
        batch_size: pictures per call; it changes the speed and not the pictures.
        folder: where finished batches are kept; a second run continues from there.
        progress: show a progress bar.
        sampling: arguments of the pipeline such as `num_inference_steps` or `adaptive`.

    Raises:
        GenrefineError: no labels, or the folder belongs to another run.
    """
    if not labels:
        raise GenrefineError("samples need at least one label; got none")
    claim = run_of(pipe, (pipe.refiner, pipe.visual_tokenizer), sampling) | {"labels": list(labels)}
    drawn = draw_batches(
        len(labels),
        batch_size,
        lambda start, end: _make(pipe, list(labels[start:end]), start, sampling),
        folder,
        claim,
        progress,
    )
    return Samples(*(drawn[name] for name in _PARTS))


def run_of(pipe: Any, networks: Sequence[nn.Module], sampling: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the samples of a pipeline, but for what they are asked to show."""
    return {
        "weights": weights_fingerprint(*networks),
        "sampler": {name: value for name, value in pipe.sampler.config.items() if not name.startswith("_")},
        "sampling": sampling,
    }


def weights_fingerprint(*networks: nn.Module) -> str:
    """Return a SHA-256 over the names and values of all weights."""
    digest = hashlib.sha256()
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _make(pipe: ClassSampler, labels: list[int], first_seed: int, sampling: dict[str, Any]) -> dict[str, Tensor]:
    seeds = list(range(first_seed, first_seed + len(labels)))
    output = pipe(labels, seed=seeds, output_type="pt", **sampling)
    return {
        "frames": (output.images * 255).round().to("cpu", torch.uint8),
        "labels": torch.tensor(labels),
        "num_steps": torch.as_tensor(output.num_steps),
        "num_evaluations": torch.as_tensor(output.num_evaluations),
    }
