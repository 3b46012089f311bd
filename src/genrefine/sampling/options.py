"""The options of sampling, declared once.

Everything that lists them reads them from here: the sampler that a model saves (`component.RefinementSampler`), the
arguments of pipelines, the flags of the command line, the record beside every picture, the table in the docs.
`settings.SamplingSettings` makes of them the objects that sample. Nothing here imports torch, for a quick `--help`.
"""

import inspect
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, get_args, get_origin

from genrefine.errors import GenrefineError, GenrefineNotice, refuse_unknown_settings

SCHEDULES = ("linear", "cosine")
SWITCHING_KERNEL = "refresh-then-exact"
KERNELS = ("refresh", "exact", SWITCHING_KERNEL)
FINAL_LATENTS = ("drawn", "expected")

Function = TypeVar("Function", bound=Callable[..., Any])


def _option(default: Any, text: str, metavar: str | tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a call samples: what a model saves, and what a call may say otherwise.

    The help of each option is its field's `metadata["help"]`. `of` checks types; ranges are checked where
    `settings.SamplingSettings` is made of the options.
    """

    num_inference_steps: int = _option(50, "T, refinements of every picture", "N")
    adaptive: bool = _option(False, "let the entropy of each picture decide its refinements")
    guidance_scale: float = _option(1.0, "weight of the class or prompt; 1 and below is off", "G")
    guidance_interval: tuple[float, float] = _option(
        (0.0, 1.0), "signals between which guidance is on, both exclusive, 0 including the first call", ("LOW", "HIGH")
    )
    guidance_power: float | None = _option(None, "let guidance grow as power-cosine guidance of this power", "P")
    temperature: float = _option(1.0, "divides the logits; below 1 is safer", "T")
    schedule: str = _option("linear", f"how the signal grows: {' or '.join(SCHEDULES)}", "NAME")
    shift: float = _option(1.0, "moves the schedule towards noise; 1 is off", "A")
    kernel: str = _option("refresh", f"the way from state to state: {', '.join(KERNELS)}", "NAME")
    kernel_switch: float | None = _option(
        None, f"signal at which {SWITCHING_KERNEL} changes over, between 0 and 1", "SIGNAL"
    )
    final_latents: str = _option(
        "drawn", f"what the last prediction gives the decoder: {' or '.join(FINAL_LATENTS)} values", "NAME"
    )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "SamplingOptions":
        """Build options from JSON values; those not given have their defaults.

        Raises:
            GenrefineError: an unknown name, or a value of the wrong type.
        """
        return cls(**typed_fields(cls, values))

    def override(self, given: Mapping[str, Any]) -> "SamplingOptions":
        """Return these options with those that a call gives; None leaves what is saved.

        What belongs to another choice goes with it: a saved `kernel_switch` with its kernel, a saved `adaptive` when
        a number of steps is given.

        Raises:
            GenrefineError: for an unknown name, or both `adaptive` and a number of steps.
        """
        refuse_unknown_settings(type(self), given)
        chosen = typed_fields(type(self), {name: value for name, value in given.items() if value is not None})
        if "num_inference_steps" in chosen:
            if chosen.get("adaptive"):
                raise GenrefineError(
                    "adaptive sampling chooses the number of steps; drop adaptive or num_inference_steps"
                )
            chosen["adaptive"] = False
        if chosen.get("kernel", SWITCHING_KERNEL) != SWITCHING_KERNEL:
            chosen.setdefault("kernel_switch", None)
        scale = chosen.get("guidance_scale", self.guidance_scale)
        if scale < 1:  # the law itself would lead away from what is asked for
            warnings.warn(
                f"guidance_scale {scale:g} is below 1 and means no guidance, as in diffusers; "
                "for a sample of nothing in particular leave the class or prompt out",
                GenrefineNotice,
                stacklevel=5,
            )
            chosen["guidance_scale"] = 1.0
        return replace(self, **chosen)

    def arguments(self) -> dict[str, Any]:
        """Return JSON values that repeat the call on the same model: options without effect are left out."""
        idle = "num_inference_steps" if self.adaptive else "adaptive"
        values = {name: getattr(self, name) for name in OPTIONS if name != idle}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }


OPTIONS = tuple(option.name for option in fields(SamplingOptions))
"""Names of the options."""


def typed_fields(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values as the types that the fields of a dataclass declare; whole numbers of any library are int.

    Raises:
        GenrefineError: there is no such field, or a value has another type.
    """
    refuse_unknown_settings(owner, values)
    return {one.name: _typed(one.name, one.type, values[one.name]) for one in fields(owner) if one.name in values}


def _typed(name: str, declared: Any, value: Any) -> Any:
    inner = get_args(declared)
    if get_origin(declared) is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != len(inner):
            raise GenrefineError(f"{name} must be {len(inner)} numbers; got {value!r}")
        return tuple(_typed(name, kind, one) for kind, one in zip(inner, value, strict=True))
    if inner:  # an optional value
        return None if value is None else _typed(name, inner[0], value)
    try:
        if isinstance(value, bool | str):
            if type(value) is declared:
                return value
        elif declared in (int, float):
            return operator.index(value) if declared is int else float(value)
    except (TypeError, ValueError):
        pass
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[declared]
    raise GenrefineError(f"{name} must be {expected}; got {value!r}")


def with_options(function: Function, overriding: bool = True) -> Function:
    """Show the options in the signature of a function that takes them as its `**` argument.

    Args:
        function: changed in place and returned.
        overriding: the function's defaults are None, "as saved", instead of the options' own, and it takes a `preset`:
            the name of options that are saved with a model.
    """
    signature = inspect.signature(function)
    named = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if overriding else option.default,
            annotation=option.type | None if overriding else option.type,  # type: ignore[operator]
        )
        for option in fields(SamplingOptions)
    ]
    if overriding:
        keyword_only = inspect.Parameter.KEYWORD_ONLY
        options.insert(0, inspect.Parameter("preset", keyword_only, default=None, annotation=str | None))
    function.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
    return function
