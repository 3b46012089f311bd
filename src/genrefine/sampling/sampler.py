"""The refinement sampler (method section 3; paper section 3.3).

Signals 0 = t_0 < t_1 < ... ; N uniform noise, drawn once; X_0 = N. Step i, for every sample:

    logits  = guided(X_i, t_i)                              one network call for the whole batch
    Y       ~ Categorical(softmax(logits / temperature))    every element by itself
    X_{i+1} ~ kernel(X_i, Y, N, t_i, t_{i+1})               see `kernels`

and the result is the last Y, or the values that are expected of it (`RefinementStep.latents`). Samples may take
different numbers of steps: each has signals of its own, the step budget decides how many, and one that has finished
leaves the network call (`rows`). `refine` is a generator of records.
"""

from collections.abc import Iterator, Sequence
from itertools import count

import torch
from jaxtyping import Int
from torch import Tensor

from genrefine.errors import GenrefineError
from genrefine.sampling.budgets import checked_entropy, normalized_entropy
from genrefine.sampling.guidance import GuidedRefiner
from genrefine.sampling.kernels import State, Transition
from genrefine.sampling.known import KnownCodes
from genrefine.sampling.random_source import RandomSource, checked_noise
from genrefine.sampling.records import RefinementStep
from genrefine.sampling.rows import ActiveRows
from genrefine.sampling.settings import SamplingSettings


def refine(
    guided: GuidedRefiner,
    source: RandomSource,
    shape: Sequence[int],
    code_classes: int,
    settings: SamplingSettings,
    noise: Int[Tensor, "batch channels t h w"] | None = None,
    known: KnownCodes | None = None,
) -> Iterator[RefinementStep]:
    """Refine noise to codes, one record per step.

    Args:
        guided: network, condition and guidance, from `guidance.apply_guidance`.
        source: one random stream per sample; its device is the device of the codes.
        shape: channels, t, h, w of one sample.
        code_classes: classes of one code.
        settings: steps, schedule, kernel and temperature.
        noise: N to start from; by default drawn. The streams advance alike in both cases.
        known: codes of pictures that are edited; by default nothing is known.

    Raises:
        GenrefineError: if network, random source and noise do not fit each other, or if the network returns NaN.
    """
    if len(guided) != len(source):
        raise GenrefineError(
            f"every sample needs one condition and one seed; got {len(guided)} conditions and {len(source)} seeds"
        )
    drawn = source.codes(code_classes, shape)
    noise = drawn if noise is None else checked_noise(noise, drawn, code_classes)
    known = known or KnownCodes(noise, torch.zeros_like(noise, dtype=torch.bool), is_counted=True)
    state, rows = known.begin(noise, source), ActiveRows(settings, len(source), known.start)
    for index in count():
        # Drawn before the network is called, which on an accelerator works meanwhile.
        race, uniform = source.exponential((*shape, code_classes)), source.uniform(shape)
        with torch.no_grad():  # not around the yield, where the caller works
            logits = guided(state.codes, known.told(rows.signal))
        entropy = checked_entropy(normalized_entropy(logits.conditional).cpu(), logits.guided)
        rows.decide(entropy)  # at one step, from which on the steps, their signals and the temperature are known

        prediction = known.in_prediction(draw_labels(logits.guided, rows.temperature, race))
        t, later = rows.signal.to(noise.device), rows.next_signal.to(noise.device)
        step = Transition(prediction, noise, uniform, t, later, code_classes)
        before, state = state, known.in_state(settings.kernel(state, step))
        signal, finished = rows.advance(state.held)
        yield RefinementStep(
            index=index,
            active=rows.active,
            num_samples=rows.num_samples,
            num_steps=rows.num_steps,
            finished=finished,
            signal=rows.signal,
            next_signal=signal,
            entropy=entropy,
            num_evaluations=logits.num_evaluations,
            prediction=prediction,
            state=state.codes,
            was_held=before.held,
            is_held=state.held,
            temperature=rows.temperature,
            logits=logits,
            fixed=known.fixed,
            final_latents=settings.final_latents,
        )
        going = (~finished).nonzero().flatten()
        if len(going) == 0:
            return
        rows.keep(going, signal)
        if len(going) < len(finished):
            there = going.to(noise.device)
            noise, state = noise[there], State(state.codes[there], state.held[there])
            guided, source, known = guided.select(going), source.select(going), known.select(there)


def draw_labels(logits: Tensor, temperature: Tensor, race: Tensor) -> Tensor:
    """Draw Categorical(softmax(logits / temperature)) by an exponential race: the label of the least e / p wins.

    Args:
        logits: "batch channels t h w classes".
        temperature: of each sample, "batch".
        race: e, from Exponential(1), one per element and class.
    """
    scaled = logits / temperature.to(logits.device)[:, None, None, None, None, None]
    return (torch.softmax(scaled, dim=-1) / race).argmax(dim=-1).int()
