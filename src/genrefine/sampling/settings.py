"""The objects that sample, made from options.

Options are plain values in diffusers' words (`num_inference_steps`, `guidance_scale`, `kernel`); the sampler works with
small frozen objects (a step budget, a guidance law, a schedule, a kernel). This module is the way from the one to the
other, and the place where a wrong value is refused.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.sampling.budgets import EntropySteps, FixedSteps, StepBudget
from genrefine.sampling.guidance import Guidance, GuidanceLaw, PowerCosineGuidance
from genrefine.sampling.kernels import ExactKernel, Kernel, RefreshKernel, RefreshThenExactKernel
from genrefine.sampling.options import (
    FINAL_LATENTS,
    KERNELS,
    SCHEDULES,
    SWITCHING_KERNEL,
    SamplingOptions,
    typed_fields,
)
from genrefine.sampling.schedules import CosineSchedule, LinearSchedule, Schedule, ShiftedSchedule


@runtime_checkable
class SignalRule(Protocol):
    """What network and guidance are told about a state, and when that ends a sample."""

    def after(
        self, scheduled: Float[Tensor, "active"], held: Bool[Tensor, "active channels t h w"]
    ) -> Float[Tensor, "active"]:
        """Return the signal of each sample after a step.

        Args:
            scheduled: that of the schedule.
            held: the elements that hold a prediction.
        """
        ...

    def ends(self, signal: Float[Tensor, "active"]) -> Bool[Tensor, "active"]:
        """Return for which samples a step at this signal is the last, whatever the step budget."""
        ...


@dataclass(frozen=True)
class ScheduledSignal:
    """Tell the signal of the schedule, and leave the end to the step budget."""

    def after(
        self, scheduled: Float[Tensor, "active"], held: Bool[Tensor, "active channels t h w"]
    ) -> Float[Tensor, "active"]:
        """Return the scheduled signal."""
        return scheduled

    def ends(self, signal: Float[Tensor, "active"]) -> Bool[Tensor, "active"]:
        """Return False for each sample."""
        return torch.zeros_like(signal, dtype=torch.bool)


@dataclass(frozen=True)
class SamplingSettings:
    """Everything that decides how a batch is refined, besides network, condition and seeds.

    Args:
        steps: how many steps each sample takes.
        guidance: weight of the conditional logits at every signal.
        schedule: signal at every share of the steps.
        kernel: the way from one state to the next.
        temperature: divides the logits, more than 0.
        signal: what network and guidance are told.
        final_latents: what a prediction gives the decoder: the values of the "drawn" codes, or the "expected" values.
    """

    steps: StepBudget = field(default_factory=FixedSteps)
    guidance: GuidanceLaw = field(default_factory=Guidance)
    schedule: Schedule = field(default_factory=LinearSchedule)
    kernel: Kernel = field(default_factory=RefreshKernel)
    temperature: float = 1.0
    signal: SignalRule = field(default_factory=ScheduledSignal)
    final_latents: str = "drawn"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise GenrefineError(f"temperature must be a positive number; got {self.temperature}")
        if self.final_latents not in FINAL_LATENTS:
            raise GenrefineError(f"final_latents must be one of {', '.join(FINAL_LATENTS)}; got {self.final_latents!r}")

    @classmethod
    def of(cls, options: SamplingOptions, entropy_steps: Any = None) -> "SamplingSettings":
        """Build the objects that options stand for.

        Args:
            options: of the call.
            entropy_steps: fields of `budgets.EntropySteps`, which adaptive sampling needs; as read, unchecked.

        Raises:
            GenrefineError: for a value out of its range, or for two that contradict each other.
        """
        return cls(
            steps=_entropy_steps(entropy_steps) if options.adaptive else FixedSteps(options.num_inference_steps),
            guidance=_guidance(options),
            schedule=_schedule(options),
            kernel=_kernel(options),
            temperature=options.temperature,
            final_latents=options.final_latents,
        )

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values, for a record of what was done."""
        return {part.name: _describe(getattr(self, part.name)) for part in fields(self)}


def _entropy_steps(given: Any) -> EntropySteps:
    if given is None:
        raise GenrefineError(
            "adaptive sampling needs a calibrated model; calibrate this one, or give num_inference_steps"
        )
    if not isinstance(given, Mapping):
        raise GenrefineError(f"entropy_steps must name the fields of a budget; got {given!r}")
    values = typed_fields(EntropySteps, given)
    missing = {part.name for part in fields(EntropySteps) if part.default is MISSING} - values.keys()
    if missing:
        raise GenrefineError(f"entropy_steps needs {', '.join(sorted(missing))}; got {dict(given)}")
    return EntropySteps(**values)


def _guidance(options: SamplingOptions) -> GuidanceLaw:
    if options.guidance_power is None:
        return Guidance(options.guidance_scale, options.guidance_interval)
    return PowerCosineGuidance(options.guidance_scale, options.guidance_power, options.guidance_interval)


def _schedule(options: SamplingOptions) -> Schedule:
    if options.schedule not in SCHEDULES:
        raise GenrefineError(f"schedule must be one of {', '.join(SCHEDULES)}; got {options.schedule!r}")
    schedule: Schedule = CosineSchedule() if options.schedule == "cosine" else LinearSchedule()
    return schedule if options.shift == 1 else ShiftedSchedule(schedule, options.shift)


def _kernel(options: SamplingOptions) -> Kernel:
    name, switch = options.kernel, options.kernel_switch
    if name not in KERNELS:
        raise GenrefineError(f"kernel must be one of {', '.join(KERNELS)}; got {name!r}")
    if (name == SWITCHING_KERNEL) != (switch is not None):
        raise GenrefineError(
            f"kernel_switch goes with the kernel '{SWITCHING_KERNEL}' and only with it; got {switch} with '{name}'"
        )
    if switch is not None:
        return RefreshThenExactKernel(switch)
    return RefreshKernel() if name == "refresh" else ExactKernel()


def _describe(value: Any) -> Any:
    if not is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    return {"type": type(value).__name__, **{part.name: _describe(getattr(value, part.name)) for part in fields(value)}}
