"""How the released text programs sample, where it differs from what options say (method section 3).

    progress of step i of T     i / (T - 1): the last call sees the end of the schedule (`final_pass`); or one call more
                                there, total = min(w + n + 1, T_max), after a warm-up of i / 50 (`extra_pass`)
    calls against schedule      T calls on a schedule spread over another number of steps (`schedule_steps`)
    end of the cosine           0.999 in May 2026, 0.95 in June (`schedule_cap`)
    guidance interval           closed at both ends (`closed_interval`)
    signal told                 the share of the elements that hold a prediction, which the refresh kernel draws around
                                the scheduled signal (`realized_signal`); a call near 1 is the last (`stop_at`)

None of it is an option of a call: `convert.published` knows which program did what, a converted model saves it, and
`PublishedLaws.applied` brings it to the settings. A call that chooses another schedule, kernel or number of steps
leaves the law of the saved one. `with_published` reads configurations of version 0.1.0, which had these as options.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.sampling.budgets import EntropySteps, FixedSteps, Rest, StepBudget, require_count
from genrefine.sampling.guidance import Guidance
from genrefine.sampling.options import SamplingOptions, typed_fields
from genrefine.sampling.schedules import CosineSchedule, Schedule, ShiftedSchedule
from genrefine.sampling.settings import SamplingSettings


@dataclass(frozen=True)
class SpreadSteps(FixedSteps):
    """A fixed budget on a schedule of another length.

    Args:
        num_steps: T, calls of the network.
        final_pass: reach the end of the schedule one step early, so that the last call sees it: s_i = i / (T - 1).
        schedule_steps: spread the schedule over so many steps instead of T; those beyond see its end. None for T.
    """

    final_pass: bool = False
    schedule_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule_steps is not None:
            require_count("schedule_steps", self.schedule_steps, at_least=1)

    def after(self, entropy: float = 0.0) -> Rest:
        """Return i / T, or i / (T - 1) up to 1 with a final pass, whatever the entropy."""
        spread = (self.schedule_steps or self.num_steps) - self.final_pass
        return Rest(_numbers([_share(i, spread) for i in range(1, self.num_steps + 1)]))


@dataclass(frozen=True)
class PassingEntropySteps(EntropySteps):
    """An entropy-guided budget with a call at the end of the schedule.

    Args:
        final_pass: as in `SpreadSteps`, both for the warm-up and for the rest.
        extra_pass: make one call more, at the end of the schedule, where `max_steps` leaves room for it.
        nominal_steps: T of the warm-up if it is not `max_steps`; more than `warmup`.
    """

    final_pass: bool = False
    extra_pass: bool = False
    nominal_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extra_pass and self.final_pass:
            raise GenrefineError("final_pass and extra_pass both add a call at the end; got both; choose one of them")
        if self.nominal_steps is not None:
            require_count("nominal_steps", self.nominal_steps, at_least=self.warmup + 1)

    def total(self, entropy: float) -> int:
        """Return that of `EntropySteps`, and 1 more with an extra pass."""
        return super().total(entropy) + self.extra_pass

    def before(self) -> Float64[Tensor, "warmup"]:
        """Return i / T of the nominal run."""
        return _numbers([_share(i, self._nominal) for i in range(1, self.warmup + 1)])

    def after(self, entropy: float) -> Rest:
        """Return an even share of what is left of the progress for each step up to the end of the schedule."""
        total = self.total(entropy)
        last = total - self.final_pass - self.extra_pass  # the step that reaches the end of the schedule
        done = _share(self.warmup, self._nominal)
        steps = range(self.warmup + 1, min(total, self.max_steps) + 1)
        share = [done + (1 - done) * (i - self.warmup) / (last - self.warmup) if i < last else 1.0 for i in steps]
        return Rest(_numbers(share), self.temperature_factor(total - self.warmup - self.extra_pass))

    @property
    def _nominal(self) -> int:
        return (self.nominal_steps or self.max_steps) - self.final_pass


@dataclass(frozen=True)
class CappedCosineSchedule(CosineSchedule):
    """A cosine schedule that ends below 1: t = cap * (1 - cos(pi s / 2)).

    Args:
        cap: signal at the end, in (0, 1].
    """

    cap: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.cap <= 1:
            raise GenrefineError(f"schedule_cap must be a signal in (0, 1]; got {self.cap}")

    def __call__(self, progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the signal at a progress in [0, 1]."""
        return self.cap * super().__call__(progress)


@dataclass(frozen=True)
class ClosedGuidance(Guidance):
    """Guide with a constant scale where low <= t <= high."""

    def weight(self, signal: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return g inside the closed interval, 1 outside."""
        low, high = self.interval
        return torch.where((signal >= low) & (signal <= high), self.scale, 1.0).to(signal.dtype)


@dataclass(frozen=True)
class RealizedSignal:
    """Tell the share of the elements that hold a prediction.

    Args:
        stop_at: a step at this signal or more is a sample's last, in (0, 1]; 1 for no effect.
        is_realized: False tells the scheduled signal, and only stops.
    """

    stop_at: float = 1.0
    is_realized: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.stop_at <= 1:
            raise GenrefineError(f"stop_at must be a signal in (0, 1], 1 for no effect; got {self.stop_at}")

    def after(
        self, scheduled: Float[Tensor, "active"], held: Bool[Tensor, "active channels t h w"]
    ) -> Float[Tensor, "active"]:
        """Return the held share of each sample."""
        return held.flatten(1).double().mean(dim=1).float().cpu() if self.is_realized else scheduled

    def ends(self, signal: Float[Tensor, "active"]) -> Bool[Tensor, "active"]:
        """Return where the signal is `stop_at` or more."""
        return signal >= self.stop_at


@dataclass(frozen=True, kw_only=True)
class PublishedLaws:
    """What a converted model saves of its program; see the module. The defaults change nothing."""

    schedule_cap: float = 1.0
    schedule_steps: int | None = None
    final_pass: bool = False
    extra_pass: bool = False
    nominal_steps: int | None = None
    closed_interval: bool = False
    realized_signal: bool = False
    stop_at: float = 1.0

    def __post_init__(self) -> None:
        CappedCosineSchedule(self.schedule_cap)
        RealizedSignal(self.stop_at)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "PublishedLaws":
        """Build laws from JSON values.

        Raises:
            GenrefineError: an unknown name, or a value of the wrong type or out of range.
        """
        return cls(**typed_fields(cls, values))

    def values(self) -> dict[str, Any]:
        """Return the laws that change something, as JSON values."""
        neutral = PublishedLaws()
        return {name: value for name, value in asdict(self).items() if value != getattr(neutral, name)}

    def applied(self, settings: SamplingSettings, saved: SamplingOptions, options: SamplingOptions) -> SamplingSettings:
        """Return the settings with the laws of the program.

        Args:
            settings: of the call.
            saved: options of the model.
            options: of the call.

        Raises:
            GenrefineError: a law does not fit the saved options.
        """
        if self.schedule_cap != 1 and saved.schedule != "cosine":
            raise GenrefineError(f"schedule_cap goes with the schedule 'cosine'; got '{saved.schedule}'; drop it")
        if self.realized_signal and saved.kernel != "refresh":
            raise GenrefineError(f"realized_signal goes with the kernel 'refresh'; got '{saved.kernel}'; drop it")
        guidance = settings.guidance
        if self.closed_interval and type(guidance) is Guidance:
            guidance = ClosedGuidance(guidance.scale, guidance.interval)
        is_realized = self.realized_signal and options.kernel == "refresh"
        return replace(
            settings,
            steps=self._steps(settings.steps, saved, options),
            guidance=guidance,
            schedule=self._schedule(settings.schedule),
            signal=settings.signal
            if (self.stop_at, is_realized) == (1, False)
            else RealizedSignal(self.stop_at, is_realized),
        )

    def _steps(self, steps: StepBudget, saved: SamplingOptions, options: SamplingOptions) -> StepBudget:
        if isinstance(steps, EntropySteps) and (self.final_pass or self.extra_pass or self.nominal_steps):
            own = {part.name: getattr(steps, part.name) for part in fields(EntropySteps)}
            passes = {"final_pass": self.final_pass, "extra_pass": self.extra_pass}
            return PassingEntropySteps(**own, **passes, nominal_steps=self.nominal_steps)
        is_own = options.num_inference_steps == saved.num_inference_steps
        spread = self.schedule_steps if is_own else None
        if isinstance(steps, FixedSteps) and (self.final_pass or spread is not None):
            return SpreadSteps(steps.num_steps, self.final_pass, spread)
        return steps

    def _schedule(self, schedule: Schedule) -> Schedule:
        if isinstance(schedule, ShiftedSchedule):
            return ShiftedSchedule(self._schedule(schedule.inner), schedule.shift)
        if isinstance(schedule, CosineSchedule) and self.schedule_cap != 1:
            return CappedCosineSchedule(self.schedule_cap)
        return schedule


def with_published(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved configuration with the laws that version 0.1.0 had as options in their place."""
    config, laws = dict(config), config.get("published") or {}
    if not isinstance(laws, Mapping):
        raise GenrefineError(f"published must name the laws of a program; got {laws!r}")
    laws = dict(laws)
    for name in ("schedule_cap", "schedule_steps", "final_pass", "stop_at"):
        if name in config:
            laws[name] = config.pop(name)
    if "guidance_interval_closed" in config:
        laws["closed_interval"] = config.pop("guidance_interval_closed")
    if "signal" in config:
        signal = config.pop("signal")
        if signal not in ("nominal", "realized"):
            raise GenrefineError(f"signal must be nominal or realized; got {signal!r}")
        laws["realized_signal"] = signal == "realized"
    if isinstance(config.get("entropy_steps"), Mapping):
        config["entropy_steps"] = dict(config["entropy_steps"])
        for name in ("extra_pass", "nominal_steps"):
            if name in config["entropy_steps"]:
                laws[name] = config["entropy_steps"].pop(name)
    if laws:
        config["published"] = PublishedLaws.of(laws).values() or None
    return config


def _numbers(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _share(completed: int, steps: int) -> float:
    """Return completed / steps, no more than 1."""
    return completed / steps if completed < steps else float(completed > 0)
