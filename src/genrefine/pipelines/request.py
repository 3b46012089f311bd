"""What a caller asks of any pipeline, made explicit: sampling settings, seeds, unknown words.

A seed is a whole number; a `torch.Generator` is asked for seeds, so that every picture has one that is reported and
makes the picture again, alone or in any batch.
"""

import difflib
import operator
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from genrefine.errors import GenrefineError
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.options import CAPPED_SCHEDULE, REALIZING_KERNEL, SWITCHING_KERNEL, SamplingSettings

SAMPLING_ARGUMENTS = (
    "num_inference_steps",
    "adaptive",
    "guidance_scale",
    "guidance_interval",
    "guidance_interval_closed",
    "guidance_power",
    "temperature",
    "schedule",
    "schedule_cap",
    "schedule_steps",
    "final_pass",
    "shift",
    "kernel",
    "kernel_switch",
    "signal",
    "stop_at",
)
"""What a call may override of the saved sampler; see `RefinementSampler`."""
Generators = torch.Generator | Sequence[torch.Generator]
_SEED_RANGE = 2**32
_ELSEWHERE = {
    "latents": "noise",
    "prompt": "class_labels",
    "class_labels": "prompt",
    "image": "first_frame",
    "num_images": "num_images_per_prompt",
}


class UnknownArgumentError(GenrefineError, TypeError):
    """Report a keyword argument that does not exist; also a `TypeError`, as Python's own."""


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


def resolve_sampling(
    sampler: RefinementSampler, given: Mapping[str, Any], what: str, is_given: bool
) -> tuple[SamplingSettings, dict[str, Any]]:
    """Return the settings of a call, and the same as plain arguments that repeat it.

    Args:
        sampler: holds the defaults.
        given: sampling arguments of the call; None stands for the default.
        what: what guidance leads towards: "class" or "prompt".
        is_given: whether any picture has one; without, guidance is off.

    Raises:
        GenrefineError: a value out of range, arguments that exclude each other, or guidance towards nothing.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if not is_given:
        # Guidance moves away from the null condition; without another there is nothing to move towards.
        scale = chosen.setdefault("guidance_scale", 1.0)
        if scale != 1:
            raise GenrefineError(
                f"guidance needs a {what}; got guidance_scale {scale} without one; "
                + ("name a class" if what == "class" else "give a prompt")
            )
    saved = {name: sampler.config[name] for name in SAMPLING_ARGUMENTS if name != "adaptive"}
    if chosen.get("adaptive"):
        del saved["num_inference_steps"], saved["schedule_steps"]
    elif "num_inference_steps" in chosen:
        del saved["schedule_steps"]
    if chosen.get("kernel", SWITCHING_KERNEL) != SWITCHING_KERNEL:
        del saved["kernel_switch"]
    if chosen.get("kernel", REALIZING_KERNEL) != REALIZING_KERNEL:
        saved["signal"] = "nominal"
    if chosen.get("schedule", CAPPED_SCHEDULE) != CAPPED_SCHEDULE:
        del saved["schedule_cap"]
    arguments = {name: value for name, value in {**saved, **chosen}.items() if value is not None}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    return sampler.settings(**chosen), plain


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
