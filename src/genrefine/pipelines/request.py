"""What a caller asks of any pipeline, prepared: samples and seeds, sampling, unknown words.

A seed is a whole number; a `torch.Generator` is asked for seeds, so that every picture has one that is reported and
makes the picture again, alone or in any batch.
"""

import difflib
import inspect
import operator
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from genrefine.errors import GenrefineError, whole_number
from genrefine.pipelines.editing import Edit
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.options import SamplingOptions
from genrefine.sampling.settings import SamplingSettings

Generators = torch.Generator | Sequence[torch.Generator]
_SEED_RANGE = 2**32
_ELSEWHERE = {
    "latents": "noise",
    "prompt": "class_labels",
    "class_labels": "prompt",
    "num_images": "num_images_per_prompt",
}


Function = TypeVar("Function", bound=Callable[..., Any])
AnyRequest = TypeVar("AnyRequest", bound="Request")


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """One call, prepared: which samples, from which seeds, how. `ClassRequest` and `TextRequest` say of what.

    Fields that are lists have one value per sample.

    Args:
        labels: class name or prompt of each sample; None for none.
        seeds: seed of each sample.
        grid: latent frames, rows and columns of a sample.
        sampling: how they are refined.
        settings: the same as plain arguments of the pipeline.
        noise: codes to start from, in place of those of the seeds.
        edits: pictures that are edited; none where all is made.
        blend: whether their own pixels are laid over what stays.
    """

    labels: list[str | None]
    seeds: list[int]
    grid: tuple[int, int, int]
    sampling: SamplingSettings
    settings: dict[str, Any]
    noise: Int[Tensor, "batch channels t h w"] | None = None
    edits: list[Edit] = field(default_factory=list)
    blend: bool = True

    def __len__(self) -> int:
        return len(self.seeds)

    def select(self: AnyRequest, rows: slice) -> AnyRequest:
        """Return the request for some of the samples; they come out the same, alone or together."""
        own = {part.name: getattr(self, part.name) for part in fields(self)}
        lists: dict[str, Any] = {name: value[rows] for name, value in own.items() if isinstance(value, list)}
        return replace(self, **lists, noise=None if self.noise is None else self.noise[rows])

    @property
    def is_clip(self) -> bool:
        """Whether the samples move."""
        return bool(self.settings.get("num_frames", 1) > 1)


class UnknownArgumentError(GenrefineError, TypeError):
    """Report a keyword argument that does not exist; also a `TypeError`, as Python's own."""


def resolve_count(num_images_per_prompt: Any) -> int:
    """Return the number of pictures per prompt."""
    count = whole_number("num_images_per_prompt", num_images_per_prompt)
    if count < 1:
        raise GenrefineError(f"num_images_per_prompt must be at least 1; got {count}")
    return count


def refuse_unknown(given: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raise if a call was given arguments that it does not have.

    Raises:
        UnknownArgumentError: names the first of them and the nearest one that exists.
    """
    for word in given:
        if word in known:
            continue
        near = difflib.get_close_matches(word, known, n=1)
        nearest = _ELSEWHERE.get(word) or (near[0] if near else None)
        hint = f"did you mean '{nearest}'?" if nearest in known else f"it knows {', '.join(known)}"
        raise UnknownArgumentError(f"{where} has no argument '{word}'; {hint}")


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a function or method takes, without `self`."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in named and p.name != "self"]


def called_like(prepare: Callable[..., Any], run: Callable[..., Any]) -> Callable[[Function], Function]:
    """Show the arguments of two methods in the signature of a third that passes its own on to them."""
    own = inspect.signature(prepare).parameters
    more = [one for name, one in inspect.signature(run).parameters.items() if name not in ("self", "request", "rows")]

    def shown(function: Function) -> Function:
        signature = inspect.signature(function)
        function.__signature__ = signature.replace(parameters=[*own.values(), *more])  # type: ignore[attr-defined]
        return function

    return shown


def resolve_options(
    sampler: RefinementSampler, given: Mapping[str, Any], what: str, is_given: bool
) -> tuple[SamplingOptions, SamplingSettings]:
    """Return the sampling options of a call, and the objects that they stand for.

    Args:
        sampler: holds the defaults.
        given: sampling options of the call; None stands for the default.
        what: what guidance leads towards: "class" or "prompt".
        is_given: whether any picture has one; without, guidance is off.

    Raises:
        GenrefineError: a value out of range, options that exclude each other, or guidance towards nothing.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if not is_given:
        # Guidance moves away from the null condition; without another there is nothing to move towards.
        scale = chosen.setdefault("guidance_scale", 1.0)
        if scale > 1:
            raise GenrefineError(
                f"guidance needs a {what}; got guidance_scale {scale} without one; "
                + ("name a class" if what == "class" else "give a prompt")
            )
    options = sampler.options(**chosen)
    return options, sampler.settings(options)


def resolve_seeds(
    count: int,
    seed: Any,
    generator: Any,
) -> list[int]:
    """Return one seed per picture.

    Args:
        count: number of pictures.
        seed: seed of the first picture, the others following by ones; or one seed per picture, in a list or tensor.
        generator: source of one seed for every picture; or one generator per picture, each giving one seed.

    Raises:
        GenrefineError: both are given, not one for every picture, or something else than whole numbers and generators.
    """
    if seed is not None and generator is not None:
        raise GenrefineError("seed and generator both decide the random numbers; got both; pass one of them")
    if generator is not None:
        if isinstance(generator, torch.Generator):
            return _drawn_seeds(generator, count)
        if not isinstance(generator, Sequence) or not all(isinstance(one, torch.Generator) for one in generator):
            raise GenrefineError(f"generator must be a torch.Generator or a list of them; got {generator!r}")
        _require_one_each("generator", len(generator), count)
        return [_drawn_seeds(one, 1)[0] for one in generator]
    if seed is None:
        return [secrets.randbelow(_SEED_RANGE) for _ in range(count)]
    if hasattr(seed, "tolist"):  # tensors and arrays
        seed = seed.tolist()
    if isinstance(seed, Sequence) and not isinstance(seed, str):
        _require_one_each("seed", len(seed), count)
        return [_whole(one) for one in seed]
    return [_whole(seed) + index for index in range(count)]


def _whole(seed: Any) -> int:
    try:
        return operator.index(seed)
    except TypeError:
        raise GenrefineError(f"a seed must be a whole number, or one for each picture; got {seed!r}") from None


def _drawn_seeds(generator: torch.Generator, count: int) -> list[int]:
    drawn = torch.randint(_SEED_RANGE, (count,), generator=generator, device=generator.device, dtype=torch.int64)
    return [int(value) for value in drawn.tolist()]


def _require_one_each(what: str, given: int, count: int) -> None:
    if given != count:
        raise GenrefineError(f"a list of {what}s must have one for each of the {count} pictures; got {given}")
