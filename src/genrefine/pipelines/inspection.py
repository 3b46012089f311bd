"""Look inside a refinement: at every step the picture in mind, what became of each position, what the network believes.

    step i      picture    decoded from the prediction Y of all clean codes, or from the values expected of them
                shares     of the channels of each position: kept, filled, erased, blank
                entropy    of what the network says of each position, over log(classes), in [0, 1]
                bits       P(b_r = 1) of every bit of a latent value, from the logits that Y is drawn from

Example:
    >>> for step in inspect(pipe, "a red heart", seed=7):  # doctest: +SKIP
    ...     step.pictures[0].save(f"{step.index}.png")
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from jaxtyping import Float, Float16, Int
from PIL import Image
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.hbq import HBQ, to_bits
from genrefine.media.pixels import to_pil_clips
from genrefine.pipelines.refinement_pipeline import RefinementPipeline, restored
from genrefine.sampling.records import RefinementStep

FATES = ("kept", "filled", "erased", "blank")


@dataclass(frozen=True, eq=False)
class InspectedStep:
    """One step of one sample.

    Args:
        index: counted from 0.
        num_steps: steps that the sample takes in all; None until the entropy has decided.
        signal: t before the step.
        next_signal: t' after it.
        mean_entropy: of the prediction, in [0, 1]: what adaptive budgets read.
        num_evaluations: network evaluations, guidance included.
        pictures: the picture in mind, at the size of the model; of a clip its frames.
        codes: the prediction Y.
        shares: of the channels of each position; `FATES` in order.
        entropy: of each position, in [0, 1]; 0 in a first frame that is given.
        probabilities: of each class of each code, as the labels are drawn from: guided, at the temperature of the call.
        hbq: of the codes.
    """

    index: int
    num_steps: int | None
    signal: float
    next_signal: float
    mean_entropy: float
    num_evaluations: int
    pictures: list[Image.Image]
    codes: Int[Tensor, "channels t h w"]
    shares: Float[Tensor, "4 t h w"]
    entropy: Float[Tensor, "t h w"]
    probabilities: Float16[Tensor, "channels t h w classes"]
    hbq: HBQ

    def bits(self, row: int, column: int, frame: int = 0) -> Float[Tensor, "dim rounds"]:
        """Return P(b_r = 1) of every latent value of a position, first round first.

        Args:
            row: of the grid of codes.
            column: likewise.
            frame: latent frame.

        Raises:
            GenrefineError: there is no such position.
        """
        chosen = self._at(self.probabilities, row, column, frame).float()
        if self.hbq.layout == "bit":
            return chosen[:, 1].unflatten(0, (self.hbq.rounds, -1)).T
        labels = torch.arange(self.hbq.code_classes, dtype=torch.int32)
        ones = to_bits(labels[None, :, None], self.hbq.rounds)[0].reshape(self.hbq.rounds, -1).float()
        return chosen @ ones.T

    def drawn(self, row: int, column: int, frame: int = 0) -> Int[Tensor, "dim rounds"]:
        """Return the bits of the prediction at a position; arguments and errors as in `bits`."""
        codes = self._at(self.codes, row, column, frame)
        if self.hbq.layout == "index":
            codes = to_bits(codes[None, :, None], self.hbq.rounds)[0, :, 0]
        return codes.unflatten(0, (self.hbq.rounds, -1)).T

    def _at(self, values: Tensor, row: int, column: int, frame: int) -> Tensor:
        frames, rows, columns = self.entropy.shape
        if not (0 <= row < rows and 0 <= column < columns and 0 <= frame < frames):
            raise GenrefineError(
                f"the codes have {frames} frames of {rows} x {columns} positions, counted from 0; got frame {frame}, "
                f"row {row}, column {column}"
            )
        return values[:, frame, row, column]


def inspect(pipe: RefinementPipeline, *what: Any, **arguments: Any) -> Iterator[InspectedStep]:
    """Make one sample and say what happens at every step.

    Args:
        pipe: a class or text pipeline.
        what: prompt or class.
        arguments: those of `pipe.prepare`.

    Raises:
        GenrefineError: as `prepare`; or more than one sample is asked for.
    """
    request = pipe.prepare(*what, **arguments)
    if len(request) != 1:
        raise GenrefineError(f"one sample is looked at; got a request for {len(request)}; ask for one")
    return inspected(pipe, request)


def inspected(pipe: RefinementPipeline, request: Any) -> Iterator[InspectedStep]:
    """Carry out a request for one sample, step by step; see `inspect`."""
    for record in pipe.steps(request):
        yield _look(pipe, record)


def final_pictures(request: Any, last: InspectedStep) -> list[Image.Image]:
    """Return what the call would have returned, an edited picture at its own size, from the last step."""
    if request.is_clip:
        clips: list[list[Image.Image]] = restored([last.pictures], request)
        return clips[0]
    pictures: list[Image.Image] = restored(last.pictures, request)
    return pictures


def _look(pipe: RefinementPipeline, record: RefinementStep) -> InspectedStep:
    conditional, guided = record.logits.conditional[0].float().cpu(), record.logits.guided[0].float().cpu()
    entropy = torch.special.entr(torch.softmax(conditional, dim=-1)).sum(-1).mean(0) / log(conditional.shape[-1])
    probabilities = torch.softmax(guided / float(record.temperature[0]), dim=-1).half()
    codes = record.prediction[0].cpu()
    if given := codes.shape[1] - entropy.shape[0]:  # a first frame, of which the network says nothing
        entropy = torch.cat([torch.zeros(given, *entropy.shape[1:]), entropy])
        known = torch.nn.functional.one_hot(codes[:, :given].long(), probabilities.shape[-1]).half()
        probabilities = torch.cat([known, probabilities], dim=1)
    fates = torch.stack([record.kept[0], record.filled[0], record.erased[0], record.blank[0]])
    return InspectedStep(
        index=record.index,
        num_steps=None if record.num_steps is None else int(record.num_steps[0]),
        signal=float(record.signal[0]),
        next_signal=float(record.next_signal[0]),
        mean_entropy=float(record.entropy[0]),
        num_evaluations=int(record.num_evaluations[0]),
        pictures=to_pil_clips(pipe.show(record))[0],
        codes=codes,
        shares=fates.float().mean(dim=1).cpu(),
        entropy=entropy,
        probabilities=probabilities,
        hbq=pipe.visual_tokenizer.hbq,
    )
