"""Record the refinement film of a pipeline call.

A recorder is a callback that looks on: it decodes what every step predicts and counts, per position, which share of
the code channels the step kept, filled, erased and left blank. Of a clip it shows the frame in the middle, and the
shares of all its latent frames.

Example:
    >>> recorder = FilmRecorder(["flag, seed 7"])  # doctest: +SKIP
    >>> pipe("flags/noto", seed=7, **recorder.arguments)  # doctest: +SKIP
    >>> save_animation(recorder.frames(), "film.gif")  # doctest: +SKIP
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.media.film import FilmPanel, draw_film_frame
from genrefine.media.pixels import to_pil
from genrefine.pipelines.refinement_pipeline import RefinementPipeline
from genrefine.sampling.records import RefinementStep


class FilmRecorder:
    """Watch one pipeline call and draw it afterwards.

    Args:
        captions: what to call each picture of the call.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        self.captions = list(captions)
        self.panels: list[list[FilmPanel]] = [[] for _ in self.captions]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments that make a pipeline call report to this recorder."""
        return {"callback_on_step_end": self, "callback_on_step_end_tensor_inputs": ["record"]}

    def __call__(self, pipeline: RefinementPipeline, step: int, signal: float, tensors: dict[str, Any]) -> None:
        """Keep what one step shows of every picture that took part."""
        record: RefinementStep = tensors["record"]
        if record.num_samples != len(self.captions):
            raise GenrefineError(
                f"a film needs one caption per picture; got {len(self.captions)} for {record.num_samples} pictures"
            )
        shares = position_shares(record)
        pixels = pipeline.show(record)
        middle = pixels.shape[2] // 2
        pictures = to_pil(pixels[:, :, middle : middle + 1])
        for row, sample in enumerate(record.active.tolist()):
            self.panels[sample].append(
                FilmPanel(
                    caption=self.captions[sample],
                    picture=pictures[row],
                    shares=shares[row],
                    step=record.index + 1,
                    num_steps=None if record.num_steps is None else int(record.num_steps[row]),
                    signal=float(record.next_signal[row]),
                    entropy=float(record.entropy[row]),
                )
            )

    def frames(self) -> list[Image.Image]:
        """Draw one frame per step; a picture that has finished holds its last one.

        Raises:
            GenrefineError: nothing was recorded.
        """
        return draw_film(self.panels)


def draw_film(panels: Sequence[Sequence[FilmPanel]]) -> list[Image.Image]:
    """Draw a film from the panels of every picture, in the order of their steps.

    Raises:
        GenrefineError: there are no panels.
    """
    if not all(panels) or not panels:
        raise GenrefineError("a film needs at least one recorded step; got none; pass the recorder to a pipeline call")
    longest = max(len(of_one) for of_one in panels)
    return [draw_film_frame([of_one[min(k, len(of_one) - 1)] for of_one in panels]) for k in range(longest)]


def position_shares(record: RefinementStep) -> Float[Tensor, "active 4 h w"]:
    """Return the kept, filled, erased and blank share of the channels at each position of a picture."""
    fates = torch.stack([record.kept, record.filled, record.erased, record.blank], dim=1)
    return fates.float().mean(dim=(2, 3)).cpu()
