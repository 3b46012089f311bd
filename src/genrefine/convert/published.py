"""Sampling settings of the published programs, by the names that their command lines use.

    class-to-image     t_i = i / T (or the cosine, or entropy-guided); guidance strictly inside (interval_min,
                       interval_max), or power-cosine if interval_min is negative; the network is told the nominal t
    text, May, June    nominal = cap (1 - cos(pi/2 shift(min(1, i / (Tmax - 1))))), cap 0.999 in May, 0.95 in June; the
                       network and the guidance, on from cfg_interval on, are told the realized share of kept elements;
                       max_infer_steps calls, or until a call sees a signal within 1e-6 (May) or 0.02 (June) of 1
    text, entropy      an older state of the May program: linear, shifted, nominal, and a step count from the entropy

Everything here is a `RefinementSampler`, so that each variant is a configuration and can be saved with a model.
"""

from typing import Any

from genrefine.errors import GenrefineError
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.published import PublishedLaws

TEXT_CAP = {"prefix": 0.999, "joint": 0.95}
TEXT_STOP = {"prefix": 1 - 1e-6, "joint": 0.98}
CLASS_BUDGET = {
    "warmup": 5,
    "slope": 700.0,
    "offset": -620.0,
    "min_steps": 20,
    "max_steps": 50,
    "min_temperature_factor": 0.5,
}
"""Released for size B in the index layout; it belongs to these weights."""
TEXT_SLOPE, TEXT_OFFSET = 417.7052426732362, -318.1272488653967


def class_sampler(
    num_sampling_steps: int = 50,
    cfg: float = 2.35,
    interval_min: float = 0.44,
    interval_max: float = 1.0,
    tau: float = 1.31,
    sampling_method: str = "linear",
    entropy_steps: dict[str, Any] | None = None,
) -> RefinementSampler:
    """Return the sampler of the published class-to-image program; defaults are those of its evaluation of size B.

    Args:
        num_sampling_steps: T.
        cfg: guidance scale; for power-cosine guidance, what is added to 1 at the end.
        interval_min: guidance is on above it; negative for power-cosine guidance with this power.
        interval_max: guidance is on below it; without effect on power-cosine guidance.
        tau: temperature.
        sampling_method: "linear" (also "heun" and "euler" there) or "cosine"; "complexity_aware" is "linear" with
            `entropy_steps`.
        entropy_steps: fields of `budgets.EntropySteps`; the sampler then uses them unless told a number of steps.
    """
    grows = interval_min < 0
    return RefinementSampler(
        num_inference_steps=num_sampling_steps,
        guidance_scale=cfg + 1 if grows else cfg,
        guidance_interval=(0.0, 1.0) if grows else (interval_min, interval_max),
        guidance_power=-interval_min if grows else None,
        temperature=tau,
        schedule="cosine" if sampling_method == "cosine" else "linear",
        adaptive=entropy_steps is not None,
        entropy_steps=entropy_steps,
    )


def text_sampler(
    attention: str,
    cfg: float = 3.0,
    cfg_interval: float = 0.0,
    tau: float = 1.0,
    snr_shift: float = 1.0,
    tmax: int = 50,
    max_infer_steps: int = 50,
) -> RefinementSampler:
    """Return the sampler of a published text program.

    Args:
        attention: "prefix" for the program of May 2026, "joint" for that of June.
        cfg: guidance scale; 1 is off.
        cfg_interval: signal from which guidance is on, inclusive.
        tau: temperature; 1.1 in the tools for text-to-image.
        snr_shift: shift of the schedule; above 1000 it is written there with 1000 added.
        tmax: `complexity_aware_Tmax`, the steps that the schedule is spread over.
        max_infer_steps: calls of the network.

    Raises:
        GenrefineError: for another attention.
    """
    _require_attention(attention)
    return RefinementSampler(
        num_inference_steps=max_infer_steps,
        guidance_scale=cfg,
        guidance_interval=(cfg_interval, 1.0),
        temperature=tau,
        schedule="cosine",
        shift=plain_shift(snr_shift),
        published=PublishedLaws(
            schedule_cap=TEXT_CAP[attention],
            schedule_steps=None if tmax == max_infer_steps else tmax,
            final_pass=True,
            closed_interval=True,
            realized_signal=True,
            stop_at=TEXT_STOP[attention],
        ).values(),
    )


def text_entropy_sampler(
    min_infer_steps: int = 50,
    max_infer_steps: int = 50,
    alpha: float = 1004.0,
    cfg: float = 3.0,
    cfg_interval: float = 0.0,
    tau: float = 1.0,
) -> RefinementSampler:
    """Return the sampler of the entropy-guided text program (revision 6563168).

    Args:
        min_infer_steps: fewest steps without the extra call at the end; 0 stands for `max_infer_steps`.
        max_infer_steps: most calls.
        alpha: shift of the schedule; above 1000 it is written there with 1000 added.
        cfg, cfg_interval, tau: as in `text_sampler`.
    """
    return RefinementSampler(
        num_inference_steps=max_infer_steps,
        guidance_scale=cfg,
        guidance_interval=(cfg_interval, 1.0),
        temperature=tau,
        shift=plain_shift(alpha),
        adaptive=True,
        entropy_steps={
            "warmup": 5,
            "slope": TEXT_SLOPE,
            "offset": TEXT_OFFSET,
            "min_steps": min_infer_steps or max_infer_steps,
            "max_steps": max_infer_steps,
        },
        # The warm-up is that of 50 steps, whatever max_infer_steps.
        published=PublishedLaws(extra_pass=True, nominal_steps=50, closed_interval=True).values(),
    )


def plain_shift(alpha: float) -> float:
    """Return a shift as we write it; the published programs add 1000 to some."""
    return float(alpha - 1000 if alpha > 1000 else alpha)


def _require_attention(attention: str) -> None:
    if attention not in TEXT_CAP:
        raise GenrefineError(f"attention must be 'prefix' (May 2026) or 'joint' (June 2026); got {attention!r}")
