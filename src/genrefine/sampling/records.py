"""Records of a refinement: what every step did, and what came out.

At each step (method section 3) an element of the codes either holds a prediction or is noise, before and after:

    before \\ after      prediction     noise
    noise               filled         blank
    prediction          kept           erased

Which elements hold a prediction is defined by the kernel, see `kernels`. Progress bars, films, statistics and tests
read the records that `sampler.refine` yields; `collect` runs it to the end.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.hbq import HBQ
from genrefine.sampling.guidance import GuidedLogits


@dataclass(frozen=True)
class RefinementStep:
    """What one step did. Rows are the samples that took part.

    Args:
        index: step, counted from 0.
        active: positions in the batch of the samples that took part.
        num_samples: samples of the whole batch.
        num_steps: steps that each of them will have taken; None until the entropy decides.
        finished: those for which this step was the last.
        signal: t before the step.
        next_signal: t' after the step.
        entropy: normalized entropy of the conditional prediction, in [0, 1].
        num_evaluations: network evaluations of this step, guidance included.
        prediction: Y, the sampled guess of all clean codes.
        state: X after the step.
        was_held: where the state before the step held a prediction; the rest was noise.
        is_held: the same after the step.
        temperature: that the prediction is drawn at.
        logits: what the network said of the latent frames that it predicts, which the prediction is drawn from.
        fixed: elements that are given and not predicted: of an edited picture, of a first frame.
        final_latents: "drawn" or "expected", see `latents`.
    """

    index: int
    active: Int[Tensor, "active"]
    num_samples: int
    num_steps: Int[Tensor, "active"] | None
    finished: Bool[Tensor, "active"]
    signal: Float[Tensor, "active"]
    next_signal: Float[Tensor, "active"]
    entropy: Float[Tensor, "active"]
    num_evaluations: Int[Tensor, "active"]
    prediction: Int[Tensor, "active channels t h w"]
    state: Int[Tensor, "active channels t h w"]
    was_held: Bool[Tensor, "active channels t h w"]
    is_held: Bool[Tensor, "active channels t h w"]
    temperature: Float[Tensor, "active"]
    logits: GuidedLogits
    fixed: Bool[Tensor, "active channels t h w"]
    final_latents: str

    def latents(self, hbq: HBQ, rows: Bool[Tensor, "active"] | None = None) -> Float[Tensor, "shown dim t h w"]:
        """Return what the decoder shows of this step: of the last one, the result.

        "drawn" are the values of the codes in `prediction`. "expected" are the means of those values under what the
        network says of all clean codes, E[z | X_t], guided and at temperature 1: the drawing of the last step adds
        noise that no later step corrects, and the decoder takes any value in (-1, 1). Where codes are given, they are
        the given ones either way.

        Args:
            hbq: of the codes.
            rows: True for the samples to show; by default all.
        """
        shown = slice(None) if rows is None else rows.to(self.prediction.device)
        prediction = self.prediction[shown]
        if self.final_latents == "drawn":
            return hbq.decode(prediction)
        probabilities = torch.softmax(self.logits.guided[shown].float(), dim=-1)
        first = prediction.shape[2] - probabilities.shape[2]  # given frames, of which the network says nothing
        probabilities = F.pad(probabilities, (0, 0, 0, 0, 0, 0, first, 0))
        certain = torch.zeros_like(probabilities).scatter_(-1, prediction.long()[..., None], 1)
        return hbq.expect(torch.where(self.fixed[shown][..., None], certain, probabilities))

    @property
    def filled(self) -> Bool[Tensor, "active channels t h w"]:
        """Elements that went from noise to a prediction."""
        return ~self.was_held & self.is_held

    @property
    def kept(self) -> Bool[Tensor, "active channels t h w"]:
        """Elements that held a prediction and still do, the same or a newer one."""
        return self.was_held & self.is_held

    @property
    def erased(self) -> Bool[Tensor, "active channels t h w"]:
        """Elements that went from a prediction back to noise."""
        return self.was_held & ~self.is_held

    @property
    def blank(self) -> Bool[Tensor, "active channels t h w"]:
        """Elements that stayed noise."""
        return ~self.was_held & ~self.is_held


@dataclass(frozen=True)
class RefinementResult:
    """The outcome for every sample of a batch.

    Args:
        codes: the last prediction.
        num_steps: steps taken.
        num_evaluations: network evaluations, guidance included.
        entropy: normalized entropy at every step, one tuple per sample.
        latents: what the decoder gets, where the quantizer was given; see `RefinementStep.latents`.
    """

    codes: Int[Tensor, "batch channels t h w"]
    num_steps: Int[Tensor, "batch"]
    num_evaluations: Int[Tensor, "batch"]
    entropy: tuple[tuple[float, ...], ...]
    latents: Float[Tensor, "batch dim t h w"] | None = None


def collect(records: Iterable[RefinementStep], hbq: HBQ | None = None) -> RefinementResult:
    """Run a refinement to its end and return what came out.

    Args:
        records: those of `refine`, unread.
        hbq: of the codes, for the latents of the result.

    Raises:
        GenrefineError: if there is no step at all.
    """
    records = iter(records)
    first = next(records, None)
    if first is None:
        raise GenrefineError("a refinement has at least one step; got none; pass the records of `refine` unread")
    codes = torch.zeros_like(first.prediction)
    latents: Tensor | None = None
    num_steps, num_evaluations = torch.zeros(2, first.num_samples, dtype=torch.long)
    traces: list[list[float]] = [[] for _ in range(first.num_samples)]
    for record in chain([first], records):
        finished = record.finished
        if finished.any():
            samples = record.active[finished].to(codes.device)
            codes[samples] = record.prediction[finished.to(codes.device)]
            if hbq is not None:
                shown = record.latents(hbq, finished)
                latents = shown.new_zeros((first.num_samples, *shown.shape[1:])) if latents is None else latents
                latents[samples] = shown
        num_steps[record.active] += 1
        num_evaluations[record.active] += record.num_evaluations
        for sample, value in zip(record.active.tolist(), record.entropy.tolist(), strict=True):
            traces[sample].append(value)
    return RefinementResult(codes, num_steps, num_evaluations, tuple(tuple(trace) for trace in traces), latents)
