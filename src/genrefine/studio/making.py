"""Carry out a request and say after every step how far it is; nothing here knows of the page."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from genrefine.media.pixels import to_pil_clips
from genrefine.pipelines.refinement_pipeline import restored
from genrefine.studio.host import Ask, Host


@dataclass
class Stop:
    """Whether somebody asked for the end of what is going on in a session."""

    asked: bool = False

    def arm(self) -> None:
        """Begin anew: what was asked before is over."""
        self.asked = False

    def ask(self) -> None:
        """Ask for the end."""
        self.asked = True


BETWEEN_PREVIEWS = 0.25
"""Seconds between two previews: decoding them is work, and eyes are slow."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture or clip that was made.

    Args:
        frames: its pictures, one for a still.
        ask: the request that makes it again.
        notes: what is kept in its file.
        prompt: in full; the class of a model of classes.
        is_edit: whether it was made from another picture, which the request does not hold.
    """

    frames: list[Image.Image]
    ask: Ask
    notes: dict[str, Any]
    prompt: str
    is_edit: bool = False

    @property
    def caption(self) -> str:
        """Prompt and seed."""
        return f"{self.prompt or 'anything'}, seed {self.ask.seed}"


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a request is.

    Args:
        done: steps taken.
        total: steps that the longest sample takes; None until the entropy has decided.
        seconds: since the beginning.
        clips: frames of all samples as they stand; None where nothing new is shown.
        samples: all of them, at the end; none if it was stopped.
        is_stopped: whether it ends here because that was asked for.
    """

    done: int
    total: int | None
    seconds: float
    clips: list[list[Image.Image]] | None = None
    samples: list[Sample] | None = None
    is_stopped: bool = False

    @property
    def words(self) -> str:
        """What to say about it."""
        if self.is_stopped:
            return f"stopped after step {self.done}"
        total = "the entropy decides how many" if self.total is None else f"of {self.total}"
        return f"step {self.done} {total}, {self.seconds:.1f} s"


def make(host: Host, ask: Ask, stop: Stop | None = None, **edit: Any) -> Iterator[Progress]:
    """Carry out a request.

    Args:
        host: whose model makes it.
        ask: what is asked for.
        stop: looked at after every step.
        edit: image, mask_image and the like, of `prepare`.

    Raises:
        GenrefineError: from the first step on, as `Host.prepare`.
    """
    request = host.prepare(ask, **edit)
    start, shown_at, count = time.perf_counter(), float("-inf"), len(request)
    clips: list[list[Image.Image]] = [[] for _ in range(count)]
    steps, evaluations, entropies = [0] * count, [0] * count, [[] for _ in range(count)]  # type: ignore[var-annotated]
    if stop is not None and stop.asked:
        yield Progress(0, None, 0.0, is_stopped=True)
        return
    for record in host.pipeline.steps(request):
        now = time.perf_counter()
        fresh = now - shown_at >= BETWEEN_PREVIEWS or not all(clips)
        shown = torch.ones_like(record.finished) if fresh else record.finished
        if shown.any():
            made = to_pil_clips(host.pipeline.show(record, shown))
            for row, frames in zip(shown.nonzero().flatten().tolist(), made, strict=True):
                clips[int(record.active[row])] = frames
        for row, sample in enumerate(record.active.tolist()):
            steps[sample] += 1
            evaluations[sample] += int(record.num_evaluations[row])
            entropies[sample].append(float(record.entropy[row]))
        shown_at = time.perf_counter() if fresh else shown_at
        total = None if record.num_steps is None else max(int(record.num_steps.max()), record.index + 1)
        is_stopped = stop is not None and stop.asked
        seconds = time.perf_counter() - start
        yield Progress(record.index + 1, total, seconds, clips if fresh else None, is_stopped=is_stopped)
        if is_stopped:
            return
    whole = restored(clips if request.is_clip else [one[0] for one in clips], request)
    samples = [
        Sample(
            frames=whole[row] if request.is_clip else [whole[row]],
            ask=replace(ask, seed=request.seeds[row], count=1),
            notes=host.notes(request, row, steps[row], evaluations[row], entropies[row]),
            prompt=host.prompt(ask) or "",
            is_edit=bool(request.edits),
        )
        for row in range(count)
    ]
    yield Progress(max(steps), max(steps), time.perf_counter() - start, [one.frames for one in samples], samples)
