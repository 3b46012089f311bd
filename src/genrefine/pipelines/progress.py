"""What happens around the steps of a pipeline call: a progress bar, the caller's callback, an early end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from jaxtyping import Float
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.sampling.guidance import GuidanceLaw
from genrefine.sampling.records import RefinementStep

CALLBACK_INPUTS = ["prediction", "state", "record"]
"""What a callback may ask for: codes of the pictures still at work, or the whole record of the step."""

StepCallback = Callable[[Any, int, float, dict[str, Any]], dict[str, Any] | None]


@dataclass(eq=False)
class Call:
    """A call under way, as a callback sees it through its pipeline, by diffusers' names.

    Args:
        guidance_scale: of the steps that follow; a callback may change it.
        num_timesteps: most refinements there can be.
        interrupt: set to end the refinement with the present step.
        changed: what a callback changed, in words.
    """

    guidance_scale: float = 1.0
    num_timesteps: int = 0
    interrupt: bool = False
    changed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FollowedGuidance:
    """The law of a call, and from where its scale was changed on, the same with that one.

    Args:
        law: of the request.
        call: whose scale may change.
        scale: that it began with.
    """

    law: GuidanceLaw
    call: Call
    scale: float

    def weight(self, signal: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return w of each sample."""
        law: Any = self.law
        if self.call.guidance_scale != self.scale:
            law = replace(law, scale=max(self.call.guidance_scale, 1.0))  # below is off, as everywhere
        return law.weight(signal)  # type: ignore[no-any-return]


_CALL: ContextVar[tuple[int, Call] | None] = ContextVar("call", default=None)


class Calls:
    """The calls of a pipeline that are under way, each in a thread of its own."""

    def __init__(self) -> None:
        self._all: list[Call] = []
        self._latest = Call()

    @property
    def present(self) -> Call:
        """The call that is carried out in this thread, else the latest one."""
        return self._own() or self._latest

    @property
    def meant(self) -> list[Call]:
        """The call of this thread, or, from another one, all that are under way."""
        own = self._own()
        return list(self._all) if own is None else [own]

    def _own(self) -> Call | None:
        """Return the call of this pipeline that is carried out in this thread."""
        found = _CALL.get()
        return found[1] if found is not None and found[0] == id(self) else None

    @contextmanager
    def one(self, call: Call) -> Iterator[Call]:
        """Carry out a call inside this context."""
        self._all.append(call)
        self._latest = call
        token = _CALL.set((id(self), call))
        try:
            yield call
        finally:
            _CALL.reset(token)
            self._all.remove(call)


def watched(
    pipeline: Any,
    call: Call,
    records: Iterator[RefinementStep],
    callback: StepCallback | None,
    names: Sequence[str],
) -> Iterator[RefinementStep]:
    """Pass the steps of a call on, showing and telling each of them.

    A callback may end the refinement, `pipeline._interrupt = True`, and change how strongly the following steps are
    guided, `pipeline._guidance_scale = ...` (diffusers' ways); the call takes a note of both.

    Args:
        pipeline: whose progress bar is drawn.
        call: the one that is carried out.
        records: the steps.
        callback: called as `(pipeline, step, signal, tensors)` after every step.
        names: what `tensors` holds, of `CALLBACK_INPUTS`; a `PipelineCallback` of diffusers says so itself.

    Raises:
        GenrefineError: a name is unknown, or the callback returns other tensors than it was given.
    """
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        names = callback.tensor_inputs
    unknown = [name for name in names if name not in CALLBACK_INPUTS]
    if unknown:
        raise GenrefineError(
            f"callback_on_step_end_tensor_inputs knows {', '.join(CALLBACK_INPUTS)}; got {unknown[0]!r}"
        )
    with pipeline.progress_bar(total=call.num_timesteps) as bar:
        for record in records:
            if record.num_steps is not None:
                bar.total = int(record.num_steps.max())  # adaptive budgets are known after the warm-up only
            bar.update()
            before = call.guidance_scale
            if callback is not None:
                _tell(pipeline, record, callback, names)
            if call.guidance_scale != before:
                call.changed.append(f"guidance_scale {call.guidance_scale:g} after step {record.index}")
            if call.interrupt:
                call.changed.append(f"ended after step {record.index}")
                yield replace(record, finished=torch.ones_like(record.finished))
                return
            yield record


def copied(record: RefinementStep) -> RefinementStep:
    """Return a record whose tensors can be written to without effect on the run."""
    own = {part.name: getattr(record, part.name) for part in fields(record)}
    copies: dict[str, Any] = {name: value.clone() for name, value in own.items() if isinstance(value, torch.Tensor)}
    return replace(record, **copies)


def _tell(pipeline: Any, record: RefinementStep, callback: StepCallback, names: Sequence[str]) -> None:
    tensors = {name: copied(record) if name == "record" else getattr(record, name).clone() for name in names}
    returned = callback(pipeline, record.index, float(record.next_signal.min()), dict(tensors))
    for name, value in (returned or {}).items():
        if value is not tensors.get(name):
            raise GenrefineError(f"a callback looks on and changes nothing; it returned another '{name}'; return None")
