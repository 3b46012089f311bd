"""`RefinementSampler`: the component that a pipeline saves, which holds the default of every sampling option."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Int
from torch import Tensor

from genrefine.conditioning.condition import Condition
from genrefine.errors import GenrefineError, refuse_unknown_settings
from genrefine.sampling.budgets import EntropySteps
from genrefine.sampling.guidance import Refiner, apply_guidance
from genrefine.sampling.options import CAPPED_SCHEDULE, REALIZING_KERNEL, SWITCHING_KERNEL, SamplingSettings
from genrefine.sampling.random_source import RandomSource
from genrefine.sampling.records import RefinementResult, RefinementStep, collect
from genrefine.sampling.sampler import refine


class RefinementSampler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Hold the sampling defaults of a model and sample with them.

    Saved by a pipeline as `sampler/scheduler_config.json`. Every default can be overridden for one call through
    `settings`.

    Args:
        num_inference_steps: T of the fixed budget.
        guidance_scale: g; 1 is off.
        guidance_interval: signals between which guidance is on, both exclusive; see `guidance.Guidance`.
        guidance_interval_closed: guide at both ends of the interval, too, as the published text models do.
        guidance_power: None for a constant scale, else the power p of `guidance.PowerCosineGuidance`.
        temperature: divides the logits; the published class model uses 1.31.
        schedule: "linear" or "cosine".
        schedule_cap: signal at which the cosine schedule ends, in (0, 1]; published text models use 0.999 or 0.95.
        schedule_steps: spread the schedule over so many steps, those beyond seeing its end; None for
            `num_inference_steps`.
        final_pass: let the last step run at the end of the schedule, as the published text models do.
        signal: what the network is told, "nominal" or, as in the published text models, "realized"; see
            `settings.SamplingSettings`.
        stop_at: a step at this signal or more is a sample's last; 1 for no effect.
        shift: moves the schedule towards noise; 1 for none.
        kernel: "refresh" (published), "exact" or "refresh-then-exact".
        kernel_switch: signal at which "refresh-then-exact" changes over; None for the other two.
        entropy_steps: fields of `steps.EntropySteps`, found by calibration; None if the model was never calibrated.

    Raises:
        GenrefineError: if a value is out of its range.
    """

    @register_to_config
    def __init__(
        self,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] | list[float] = (0.0, 1.0),
        guidance_power: float | None = None,
        temperature: float = 1.0,
        schedule: str = "linear",
        shift: float = 1.0,
        kernel: str = "refresh",
        kernel_switch: float | None = None,
        entropy_steps: dict[str, Any] | None = None,
        schedule_cap: float = 1.0,
        final_pass: bool = False,
        guidance_interval_closed: bool = False,
        schedule_steps: int | None = None,
        signal: str = "nominal",
        stop_at: float = 1.0,
    ) -> None:
        self.settings()
        if entropy_steps is not None:
            self.settings(adaptive=True)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a sampler from a configuration.

        Raises:
            GenrefineError: if the configuration has a key that the sampler does not know.
        """
        refuse_unknown_settings(cls, {**(config or {}), **kwargs})
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @property
    def is_calibrated(self) -> bool:
        """Whether an entropy budget was found for this model."""
        return self.config["entropy_steps"] is not None

    def calibrated(self, budget: EntropySteps) -> "RefinementSampler":
        """Return a sampler with the same defaults and this entropy budget."""
        fields = {name: value for name, value in asdict(budget).items() if name != "final_pass"}  # the sampler's own
        sampler: RefinementSampler = RefinementSampler(**{**self._values(), "entropy_steps": fields})
        return sampler

    def settings(self, adaptive: bool = False, **overrides: Any) -> SamplingSettings:
        """Return the settings of one call: what is given, and the saved default for what is not given or None.

        Args:
            adaptive: use the model's entropy budget instead of a fixed number of steps.
            overrides: any argument of the constructor but `entropy_steps`.

        Raises:
            GenrefineError: for an unknown name, a value out of its range, or two that contradict each other.
        """
        saved = self._values()
        given = {key: value for key, value in overrides.items() if value is not None}
        unknown = sorted(overrides.keys() - (saved.keys() - {"entropy_steps"}))
        if unknown:
            raise GenrefineError(f"settings to override are {', '.join(sorted(saved))}; got {', '.join(unknown)}")
        if adaptive and "num_inference_steps" in given:
            raise GenrefineError("adaptive sampling chooses the number of steps; drop adaptive or num_inference_steps")
        if given.get("kernel", SWITCHING_KERNEL) != SWITCHING_KERNEL:
            saved["kernel_switch"] = None  # the saved one belongs to the saved kernel
        if given.get("schedule", CAPPED_SCHEDULE) != CAPPED_SCHEDULE:
            saved["schedule_cap"] = 1.0  # likewise
        if given.get("kernel", REALIZING_KERNEL) != REALIZING_KERNEL:
            saved["signal"] = "nominal"
        if "num_inference_steps" in given:
            saved["schedule_steps"] = None
        return SamplingSettings.from_values(saved | given, adaptive)

    def sample(
        self,
        refiner: Refiner,
        condition: Condition,
        source: RandomSource,
        shape: Sequence[int],
        num_classes: int,
        settings: SamplingSettings | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
    ) -> RefinementResult:
        """Refine a whole batch and return the outcome; `refine` for the single steps.

        Args:
            refiner: the network.
            condition: what to make, one per sample.
            source: one random stream per sample.
            shape: channels, t, h, w of one sample.
            num_classes: classes of one code.
            settings: by default the saved ones, with a fixed number of steps.
            noise: N to start from; by default drawn.
        """
        return collect(self.refine(refiner, condition, source, shape, num_classes, settings, noise))

    def refine(
        self,
        refiner: Refiner,
        condition: Condition,
        source: RandomSource,
        shape: Sequence[int],
        num_classes: int,
        settings: SamplingSettings | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
    ) -> Iterator[RefinementStep]:
        """Yield one record per step; arguments as in `sample`."""
        settings = settings or self.settings()
        return refine(
            apply_guidance(refiner, condition, settings.guidance), source, shape, num_classes, settings, noise
        )

    def _values(self) -> dict[str, Any]:
        return {key: value for key, value in self.config.items() if not key.startswith("_")}
