"""`RefinementSampler`: the component that a pipeline saves, which holds the default of every sampling option."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Int
from torch import Tensor

from genrefine.conditioning.condition import Condition
from genrefine.errors import GenrefineError, refuse_unknown_settings
from genrefine.sampling.budgets import EntropySteps
from genrefine.sampling.guidance import Refiner, apply_guidance
from genrefine.sampling.options import OPTIONS, SamplingOptions, with_options
from genrefine.sampling.published import PublishedLaws, with_published
from genrefine.sampling.random_source import RandomSource
from genrefine.sampling.records import RefinementResult, RefinementStep, collect
from genrefine.sampling.sampler import refine
from genrefine.sampling.settings import SamplingSettings


class RefinementSampler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Hold the sampling defaults of a model and sample with them.

    Saved by a pipeline as `sampler/scheduler_config.json`. Every option can be overridden for one call.

    Args:
        entropy_steps: fields of `budgets.EntropySteps`, found by calibration; None if the model was never calibrated.
        presets: options by name, such as `{"fast": {"num_inference_steps": 8}}`: a call with `preset="fast"` takes them
            in place of the saved ones, and whatever else it says comes on top.
        published: fields of `published.PublishedLaws` that differ from its defaults, for converted models.
        options: fields of `options.SamplingOptions`.

    Raises:
        GenrefineError: if a value is out of its range, or there is no such option.
    """

    @register_to_config
    @partial(with_options, overriding=False)
    def __init__(
        self,
        *,
        entropy_steps: dict[str, Any] | None = None,
        presets: dict[str, Any] | None = None,
        published: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        saved = self.options()
        self.settings(saved)
        if entropy_steps is not None:  # a budget that does not fit is refused now, not at the first adaptive call
            self.settings(replace(saved, adaptive=True))
        for name in self.presets:
            self.settings(preset=name)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a sampler from a configuration of this version or an earlier one.

        Raises:
            GenrefineError: if the configuration has a key that the sampler does not know.
        """
        given = with_published({**(config or {}), **kwargs})
        refuse_unknown_settings(cls, given)
        return super().from_config(given, return_unused_kwargs)

    @property
    def is_calibrated(self) -> bool:
        """Whether an entropy budget was found for this model."""
        return self.config["entropy_steps"] is not None

    @property
    def presets(self) -> list[str]:
        """Names of the options that are saved under one."""
        return list(self.config["presets"] or {})

    def calibrated(self, budget: EntropySteps) -> "RefinementSampler":
        """Return a sampler with the same defaults and this entropy budget."""
        values = {key: value for key, value in self.config.items() if not key.startswith("_")}
        sampler: RefinementSampler = RefinementSampler(**{**values, "entropy_steps": asdict(budget)})
        return sampler

    def options(self, **given: Any) -> SamplingOptions:
        """Return the options of one call: what is given, and the saved value of what is not given or None.

        Args:
            given: fields of `SamplingOptions`, and `preset`, the name of saved ones.

        Raises:
            GenrefineError: for an unknown name, or two values that exclude each other.
        """
        saved = SamplingOptions.of({name: self.config[name] for name in OPTIONS})
        if (name := given.pop("preset", None)) is not None:
            saved = saved.override(self._preset(name))
        return saved.override(given)

    def _preset(self, name: Any) -> dict[str, Any]:
        if name not in self.presets:
            known = f"its presets are {', '.join(self.presets)}" if self.presets else "it has none"
            raise GenrefineError(f"the model has no sampling preset {name!r}; {known}")
        values = self.config["presets"][name]
        if not isinstance(values, Mapping):
            raise GenrefineError(f"presets must hold sampling options by name; got {values!r} for {name!r}")
        return dict(values)

    def settings(self, options: SamplingOptions | None = None, **given: Any) -> SamplingSettings:
        """Return the objects that sample.

        Args:
            options: of the call; by default `self.options(**given)`.
            given: see there.

        Raises:
            GenrefineError: a value out of its range, or two that contradict each other.
        """
        options = options if options is not None else self.options(**given)
        settings = SamplingSettings.of(options, self.config["entropy_steps"])
        if self.config["published"] is None:
            return settings
        return PublishedLaws.of(self.config["published"]).applied(settings, self.options(), options)

    def sample(
        self,
        refiner: Refiner,
        condition: Condition,
        source: RandomSource,
        shape: Sequence[int],
        code_classes: int,
        settings: SamplingSettings | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
    ) -> RefinementResult:
        """Refine a whole batch and return the outcome; `refine` for the single steps.

        Args:
            refiner: the network.
            condition: what to make, one per sample.
            source: one random stream per sample.
            shape: channels, t, h, w of one sample.
            code_classes: classes of one code.
            settings: by default the saved ones, with a fixed number of steps.
            noise: N to start from; by default drawn.
        """
        return collect(self.refine(refiner, condition, source, shape, code_classes, settings, noise))

    def refine(
        self,
        refiner: Refiner,
        condition: Condition,
        source: RandomSource,
        shape: Sequence[int],
        code_classes: int,
        settings: SamplingSettings | None = None,
        noise: Int[Tensor, "batch channels t h w"] | None = None,
    ) -> Iterator[RefinementStep]:
        """Yield one record per step; arguments as in `sample`."""
        settings = settings or self.settings()
        return refine(
            apply_guidance(refiner, condition, settings.guidance), source, shape, code_classes, settings, noise
        )
