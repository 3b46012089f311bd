"""The refinement sampler (method section 3; paper section 3.3).

Signals 0 = t_0 < t_1 < ... ; N uniform noise, drawn once; X_0 = N. Step i, for every sample:

    logits  = guided(X_i, t_i)                              one network call for the whole batch
    Y       ~ Categorical(softmax(logits / temperature))    every element by itself
    X_{i+1} ~ kernel(X_i, Y, N, t_i, t_{i+1})               see `kernels`

and the result is the last Y. The network and the guidance are told t_i, or the share of elements that the kernel really
kept (`SamplingSettings.signal`). How many steps a sample takes is the business of `steps`; finished samples leave the
network call. `refine` is a generator of records, see `refinement`. `RefinementSampler` is the component that a pipeline
saves: it holds the default of every setting.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float, Int
from torch import Tensor

from genrefine.conditioning.condition import Condition
from genrefine.errors import GenrefineError, refuse_unknown_settings
from genrefine.sampling.budgets import EntropySteps, StepBudget, checked_entropy, normalized_entropy
from genrefine.sampling.guidance import GuidedRefiner, Refiner, bind
from genrefine.sampling.kernels import State, Transition
from genrefine.sampling.options import CAPPED_SCHEDULE, REALIZING_KERNEL, SWITCHING_KERNEL, SamplingSettings
from genrefine.sampling.random_source import Draws, checked_noise
from genrefine.sampling.records import UNKNOWN, RefinementResult, RefinementStep, collect


@torch.no_grad()
def refine(
    guided: GuidedRefiner,
    draws: Draws,
    shape: Sequence[int],
    num_classes: int,
    settings: SamplingSettings,
    noise: Int[Tensor, "batch channels t h w"] | None = None,
) -> Iterator[RefinementStep]:
    """Refine noise to codes, one record per step.

    Args:
        guided: network, condition and guidance, from `guidance.bind`.
        draws: one random stream per sample; its device is the device of the codes.
        shape: channels, t, h, w of one sample.
        num_classes: classes of one code.
        settings: steps, schedule, kernel and temperature.
        noise: N to start from; by default drawn. The streams advance alike in both cases.

    Raises:
        GenrefineError: if network, draws and noise do not fit each other, or if the network returns NaN.
    """
    if len(guided) != len(draws):
        raise GenrefineError(
            f"every sample needs one condition and one seed; got {len(guided)} conditions and {len(draws)} seeds"
        )
    steps, shape = settings.steps, tuple(shape)
    drawn = draws.codes(num_classes, shape)
    noise = drawn if noise is None else checked_noise(noise, drawn, num_classes)
    state = State(noise, torch.zeros_like(noise, dtype=torch.bool))
    active = torch.arange(len(draws))
    plans = torch.full((len(draws),), UNKNOWN)
    totals, signal = plans.clone(), torch.zeros(len(draws))

    for index in range(steps.max_steps):
        logits = guided(state.codes, signal)
        entropy = checked_entropy(normalized_entropy(logits.conditional).cpu(), logits.guided)
        if index == steps.decision_step:
            plans[active] = torch.tensor([steps.total(value) for value in entropy.tolist()])
            totals = plans.clamp_max(steps.max_steps)
        totals[active[signal >= settings.stop_at]] = index + 1
        # The decision already tells the temperature and the next signal of the step that makes it.
        temperature = settings.temperature * _factors(steps, plans[active])
        prediction = _draw_labels(logits.guided, temperature, draws.exponential((*shape, num_classes)))
        next_signal = _signal(settings, index + 1, plans[active])
        before = state
        state = settings.kernel(
            before,
            Transition(
                prediction,
                noise,
                draws.uniform(shape),
                signal.to(noise.device),
                next_signal.to(noise.device),
                num_classes,
            ),
        )
        if settings.signal == "realized":
            next_signal = state.held.flatten(1).double().mean(dim=1).float().cpu()
        step = RefinementStep(
            index=index,
            active=active,
            totals=totals.clone(),
            signal=signal,
            next_signal=next_signal,
            entropy=entropy,
            num_evaluations=logits.num_evaluations,
            prediction=prediction,
            state=state.codes,
            was_held=before.held,
            is_held=state.held,
        )
        yield step

        remaining = (~step.finished).nonzero().flatten()
        if len(remaining) == 0:
            return
        if len(remaining) < len(active):
            rows = remaining.to(noise.device)
            active, noise, state = active[remaining], noise[rows], State(state.codes[rows], state.held[rows])
            guided, draws = guided.select(remaining), draws.select(remaining)
        signal = next_signal[remaining]


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
        draws: Draws,
        shape: Sequence[int],
        num_classes: int,
        settings: SamplingSettings | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
    ) -> RefinementResult:
        """Refine a whole batch and return the outcome; `refine` for the single steps.

        Args:
            refiner: the network.
            condition: what to make, one per sample.
            draws: one random stream per sample.
            shape: channels, t, h, w of one sample.
            num_classes: classes of one code.
            settings: by default the saved ones, with a fixed number of steps.
            noise: N to start from; by default drawn.
        """
        return collect(self.refine(refiner, condition, draws, shape, num_classes, settings, noise))

    def refine(
        self,
        refiner: Refiner,
        condition: Condition,
        draws: Draws,
        shape: Sequence[int],
        num_classes: int,
        settings: SamplingSettings | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
    ) -> Iterator[RefinementStep]:
        """Yield one record per step; arguments as in `sample`."""
        settings = settings or self.settings()
        return refine(bind(refiner, condition, settings.guidance), draws, shape, num_classes, settings, noise)

    def _values(self) -> dict[str, Any]:
        return {key: value for key, value in self.config.items() if not key.startswith("_")}


def _signal(settings: SamplingSettings, completed: int, totals: Tensor) -> Float[Tensor, "active"]:
    """Return the signal of every sample after so many steps."""
    progress = [settings.steps.progress(completed, _known(total)) for total in totals.tolist()]
    return settings.schedule(torch.tensor(progress, dtype=torch.float64)).float()


def _factors(steps: StepBudget, totals: Tensor) -> Float[Tensor, "active"]:
    return torch.tensor([steps.temperature_factor(_known(total)) for total in totals.tolist()])


def _known(total: int) -> int | None:
    return None if total == UNKNOWN else total


def _draw_labels(logits: Tensor, temperature: Tensor, exponential: Tensor) -> Tensor:
    """Draw Categorical(softmax(logits / temperature)) by an exponential race."""
    scaled = logits / temperature.to(logits.device)[:, None, None, None, None, None]
    return (torch.softmax(scaled, dim=-1) / exponential).argmax(dim=-1).int()
