"""Settings of one sampling run, built from the plain values of a configuration.

A configuration names things in diffusers' words and in JSON values (`num_inference_steps`, `guidance_scale`,
`kernel`); the sampler works with small frozen objects (a step budget, a guidance law, a schedule, a kernel). This
module is the way from the one to the other, and the place where a wrong value is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from genrefine.errors import GenrefineError, refuse_unknown_settings
from genrefine.sampling.budgets import EntropySteps, FixedSteps, StepBudget
from genrefine.sampling.guidance import Guidance, GuidanceLaw, PowerCosineGuidance
from genrefine.sampling.kernels import ExactKernel, Kernel, RefreshKernel, RefreshThenExactKernel
from genrefine.sampling.schedules import CosineSchedule, LinearSchedule, Schedule, ShiftedSchedule

SCHEDULES: dict[str, Callable[[], Schedule]] = {"linear": LinearSchedule, "cosine": CosineSchedule}
CAPPED_SCHEDULE = "cosine"
SWITCHING_KERNEL = "refresh-then-exact"
KERNELS = ("refresh", "exact", SWITCHING_KERNEL)
SIGNALS = ("nominal", "realized")
REALIZING_KERNEL = "refresh"


@dataclass(frozen=True)
class SamplingSettings:
    """Everything that decides how a batch is refined, besides network, condition and seeds.

    Args:
        steps: how many steps each sample takes.
        guidance: weight of the conditional logits at every signal.
        schedule: signal at every share of the steps.
        kernel: the way from one state to the next.
        temperature: divides the logits, more than 0.
        signal: what network and guidance are told: "nominal", that of the schedule; or "realized", the share of the
            elements that hold a prediction, which the refresh kernel draws around the nominal one.
        stop_at: a step at this signal or more is a sample's last, in (0, 1].
    """

    steps: StepBudget = field(default_factory=FixedSteps)
    guidance: GuidanceLaw = field(default_factory=Guidance)
    schedule: Schedule = field(default_factory=LinearSchedule)
    kernel: Kernel = field(default_factory=RefreshKernel)
    temperature: float = 1.0
    signal: str = "nominal"
    stop_at: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise GenrefineError(f"temperature must be a positive number; got {self.temperature}")
        if self.signal not in SIGNALS:
            raise GenrefineError(f"signal must be one of {', '.join(SIGNALS)}; got {self.signal!r}")
        if self.signal == "realized" and not isinstance(self.kernel, RefreshKernel):
            raise GenrefineError(
                f"signal 'realized' goes with the kernel '{REALIZING_KERNEL}' and only with it; use 'nominal'"
            )
        if not 0 < self.stop_at <= 1:
            raise GenrefineError(f"stop_at must be a signal in (0, 1], 1 for no effect; got {self.stop_at}")

    @classmethod
    def from_values(cls, values: Mapping[str, Any], adaptive: bool) -> "SamplingSettings":
        """Build settings from values named as in the configuration of `sampler.RefinementSampler`.

        Args:
            values: one value for every name.
            adaptive: take the steps from `entropy_steps` instead of `num_inference_steps`.

        Raises:
            GenrefineError: for a value out of its range or of the wrong type, or for two that contradict each other.
        """
        try:
            return cls(
                steps=_entropy_steps(values)
                if adaptive
                else FixedSteps(values["num_inference_steps"], _switch(values, "final_pass"), values["schedule_steps"]),
                guidance=_guidance(values),
                schedule=_schedule(values),
                kernel=_kernel(values),
                temperature=float(values["temperature"]),
                signal=values["signal"],
                stop_at=float(values["stop_at"]),
            )
        except (TypeError, ValueError, AttributeError) as error:
            if isinstance(error, GenrefineError):
                raise
            reason = str(error).splitlines()[0]
            raise GenrefineError(f"a sampler setting has a wrong type or name: {reason}; got {dict(values)}") from error

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values, for a record of what was done."""
        return {part.name: _describe(getattr(self, part.name)) for part in fields(self)}


def _entropy_steps(values: Mapping[str, Any]) -> EntropySteps:
    if values["entropy_steps"] is None:
        raise GenrefineError(
            "adaptive sampling needs a calibrated model; calibrate this one, or give num_inference_steps"
        )
    refuse_unknown_settings(EntropySteps, values["entropy_steps"])
    # JSON does not tell 700 from 700.0.
    reals = {"slope", "offset", "min_temperature_factor"}
    given: dict[str, Any] = {
        name: float(value) if name in reals else value for name, value in values["entropy_steps"].items()
    }
    return EntropySteps(**given, final_pass=_switch(values, "final_pass"))


def _switch(values: Mapping[str, Any], name: str) -> bool:
    if not isinstance(values[name], bool):
        raise GenrefineError(f"{name} must be true or false; got {values[name]!r}")
    return values[name]


def _guidance(values: Mapping[str, Any]) -> GuidanceLaw:
    scale = float(values["guidance_scale"])
    low, high = values["guidance_interval"]
    interval, closed = (float(low), float(high)), _switch(values, "guidance_interval_closed")
    if values["guidance_power"] is None:
        return Guidance(scale, interval, closed)
    return PowerCosineGuidance(scale, float(values["guidance_power"]), interval, closed)


def _schedule(values: Mapping[str, Any]) -> Schedule:
    if values["schedule"] not in SCHEDULES:
        raise GenrefineError(f"schedule must be one of {', '.join(SCHEDULES)}; got {values['schedule']!r}")
    cap = float(values["schedule_cap"])
    if cap != 1 and values["schedule"] != CAPPED_SCHEDULE:
        raise GenrefineError(
            f"schedule_cap goes with the schedule '{CAPPED_SCHEDULE}' and only with it; got {cap} with "
            f"'{values['schedule']}'; drop it"
        )
    schedule = CosineSchedule(cap) if values["schedule"] == CAPPED_SCHEDULE else SCHEDULES[values["schedule"]]()
    return schedule if values["shift"] == 1 else ShiftedSchedule(schedule, float(values["shift"]))


def _kernel(values: Mapping[str, Any]) -> Kernel:
    name, switch = values["kernel"], values["kernel_switch"]
    if name not in KERNELS:
        raise GenrefineError(f"kernel must be one of {', '.join(KERNELS)}; got {name!r}")
    if (name == SWITCHING_KERNEL) != (switch is not None):
        raise GenrefineError(
            f"kernel_switch goes with the kernel '{SWITCHING_KERNEL}' and only with it; got {switch} with '{name}'"
        )
    if name == SWITCHING_KERNEL:
        return RefreshThenExactKernel(float(switch))
    return RefreshKernel() if name == "refresh" else ExactKernel()


def _describe(value: Any) -> Any:
    if not is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    return {"type": type(value).__name__, **{part.name: _describe(getattr(value, part.name)) for part in fields(value)}}
