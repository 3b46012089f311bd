"""What happens around the steps of a pipeline call: a progress bar, the caller's callback, an early end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from genrefine.errors import GenrefineError
from genrefine.sampling.records import RefinementStep

CALLBACK_INPUTS = ["prediction", "state", "record"]
"""What a callback may ask for: codes of the pictures still at work, or the whole record of the step."""

StepCallback = Callable[[Any, int, float, dict[str, Any]], dict[str, Any] | None]


def watched(
    pipeline: DiffusionPipeline,
    records: Iterator[RefinementStep],
    max_steps: int,
    callback: StepCallback | None,
    names: Sequence[str],
) -> Iterator[RefinementStep]:
    """Pass the steps of a call on, showing and telling each of them.

    A callback may set `pipeline._interrupt = True` (diffusers' way): the pictures then end with this step.

    Args:
        pipeline: whose progress bar is drawn.
        records: the steps.
        max_steps: most steps there can be.
        callback: called as `(pipeline, step, signal, tensors)` after every step.
        names: what `tensors` holds, of `CALLBACK_INPUTS`.

    Raises:
        GenrefineError: a name is unknown, or the callback returns other tensors than it was given.
    """
    unknown = [name for name in names if name not in CALLBACK_INPUTS]
    if unknown:
        raise GenrefineError(
            f"callback_on_step_end_tensor_inputs knows {', '.join(CALLBACK_INPUTS)}; got {unknown[0]!r}"
        )
    pipeline._interrupt = False
    with pipeline.progress_bar(total=max_steps) as bar:
        for record in records:
            if record.num_steps is not None:
                bar.total = int(record.num_steps.max())  # adaptive budgets are known after the warm-up only
            bar.update()
            if callback is not None:
                _tell(pipeline, record, callback, names)
            if pipeline._interrupt:
                yield replace(record, finished=torch.ones_like(record.finished))
                return
            yield record


def copied(record: RefinementStep) -> RefinementStep:
    """Return a record whose tensors can be written to without effect on the run."""
    own = {part.name: getattr(record, part.name) for part in fields(record)}
    copies: dict[str, Any] = {name: value.clone() for name, value in own.items() if isinstance(value, torch.Tensor)}
    return replace(record, **copies)


def _tell(pipeline: DiffusionPipeline, record: RefinementStep, callback: StepCallback, names: Sequence[str]) -> None:
    tensors = {name: copied(record) if name == "record" else getattr(record, name).clone() for name in names}
    returned = callback(pipeline, record.index, float(record.next_signal.min()), dict(tensors))
    for name, value in (returned or {}).items():
        if value is not tensors.get(name):
            raise GenrefineError(f"a callback looks on and changes nothing; it returned another '{name}'; return None")
