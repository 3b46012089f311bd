"""Step budgets: the published schedule, the laws of a budget, and the fit of slope and offset."""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from math import ceil, log
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrefine.errors import GenrefineError
from genrefine.sampling.budgets import (
    EntropySteps,
    FixedSteps,
    ShortenedSteps,
    StepBudget,
    fit_entropy_steps,
    normalized_entropy,
    shortened,
)
from genrefine.sampling.published import CappedCosineSchedule, PassingEntropySteps, SpreadSteps
from genrefine.sampling.schedules import ShiftedSchedule

PUBLISHED = json.loads((Path(__file__).parents[1] / "goldens" / "entropy_schedule.json").read_text())
CLASS_MODEL = EntropySteps(5, 700.0, -620.0, 20, 50, min_temperature_factor=0.5)


@st.composite
def budgets(draw):
    warmup = draw(st.integers(0, 8))
    least = draw(st.integers(warmup + 1, 30))
    most = draw(st.integers(least, 60))
    slope, offset = draw(st.floats(-1000, 1000)), draw(st.floats(-1000, 1000))
    return EntropySteps(warmup, slope, offset, least, most, draw(st.floats(0.1, 1)))


def progress_of(budget: StepBudget, entropy: float = 0.0) -> list[float]:
    """Return the progress after 0, 1, ... steps of a sample with this entropy."""
    return [0.0, *budget.before().tolist(), *budget.after(entropy).progress.tolist()]


@pytest.mark.parametrize("row", PUBLISHED["rows"], ids=lambda row: f"entropy {row['H']}")
def test_the_published_class_schedule_is_reproduced(row):
    total = CLASS_MODEL.total(row["H"])
    assert total == row["total"]
    assert progress_of(CLASS_MODEL, row["H"]) == pytest.approx(row["signal"], abs=1e-6)
    assert CLASS_MODEL.after(row["H"]).temperature_factor == pytest.approx(row["tau_factor"], abs=1e-6)


@given(budgets(), st.floats(0, 1))
def test_progress_rises_from_zero_to_exactly_one_in_total_steps(budget, entropy):
    total = budget.total(entropy)
    progress = progress_of(budget, entropy)
    assert len(progress) == total + 1
    assert budget.min_steps <= total <= budget.max_steps
    assert progress[0] == 0
    assert progress[-1] == 1
    assert all(earlier < later for earlier, later in pairwise(progress))
    assert isinstance(budget, StepBudget)


@given(budgets(), st.floats(0, 1))
def test_the_warmup_is_that_of_the_nominal_run_and_needs_no_total(budget, entropy):
    nominal = progress_of(FixedSteps(budget.max_steps), entropy)
    assert len(budget.before()) == budget.warmup
    assert [0, *budget.before().tolist()] == nominal[: budget.warmup + 1]


@given(st.integers(1, 20), st.floats(0, 1))
def test_a_budget_of_one_size_is_a_fixed_budget(num_steps, entropy):
    warmup = num_steps // 2
    budget = EntropySteps(warmup, 700.0, -620.0, num_steps, num_steps)
    assert budget.total(entropy) == num_steps
    assert progress_of(budget, entropy) == pytest.approx(progress_of(FixedSteps(num_steps), entropy))


def test_halves_round_to_even():
    budget = EntropySteps(2, 1.0, 0.0, 3, 20)
    assert [EntropySteps(2, 10.0, 0.0, 3, 20).total(h) - 2 for h in (0.25, 0.35, 0.45)] == [2, 4, 4]
    assert budget.total(0.0) == 3


def test_the_temperature_factor_is_off_by_default():
    assert EntropySteps(5, 700.0, -620.0, 20, 50).after(0.0).temperature_factor == 1
    assert FixedSteps(7).after().temperature_factor == 1
    assert CLASS_MODEL.after(0.0).temperature_factor == 0.625


def share(completed: int, steps: int) -> float:
    return completed / steps if completed < steps else float(completed > 0)


def fixed_progress(budget: SpreadSteps, completed: int) -> float:
    """Return the progress of a fixed budget after so many steps, one at a time."""
    return share(completed, (budget.schedule_steps or budget.num_steps) - budget.final_pass)


def entropy_progress(budget: PassingEntropySteps, completed: int, total: int) -> float:
    """Return the progress of an entropy-guided budget after so many steps, one at a time."""
    nominal = (budget.nominal_steps or budget.max_steps) - budget.final_pass
    if completed <= budget.warmup:
        return share(completed, nominal)
    last = total - budget.final_pass - budget.extra_pass
    if completed >= last:
        return 1.0
    done = share(budget.warmup, nominal)
    return done + (1 - done) * (completed - budget.warmup) / (last - budget.warmup)


@settings(max_examples=2000)
@given(budgets(), st.floats(0, 1), st.integers(0, 2), st.none() | st.integers(1, 60), st.floats(0.2, 5))
def test_before_and_after_together_are_the_steps_one_at_a_time(budget, entropy, passes, spread, shift):
    plain, fixed = PassingEntropySteps(**asdict(budget)), SpreadSteps(budget.max_steps)
    assert progress_of(plain, entropy) == progress_of(budget, entropy)
    assert progress_of(fixed, entropy) == progress_of(FixedSteps(budget.max_steps), entropy)
    budget = replace(
        plain, final_pass=passes == 1, extra_pass=passes == 2, nominal_steps=spread and budget.warmup + spread
    )
    total = budget.total(entropy)
    slow = [entropy_progress(budget, i, total) for i in range(min(total, budget.max_steps) + 1)]
    assert progress_of(budget, entropy) == slow
    schedule = ShiftedSchedule(CappedCosineSchedule(0.95), shift)
    whole = schedule(torch.tensor(slow[1:], dtype=torch.float64)).float()
    parts = [schedule(part).float() for part in (budget.before(), budget.after(entropy).progress)]
    assert torch.equal(torch.cat(parts), whole)
    fixed = SpreadSteps(budget.max_steps, final_pass=passes == 1, schedule_steps=spread)
    assert progress_of(fixed, entropy) == [fixed_progress(fixed, i) for i in range(budget.max_steps + 1)]


@given(st.integers(2, 40), st.integers(0, 1000))
def test_entropy_is_that_of_the_definition(num_classes, seed):
    logits = torch.randn(2, 3, 1, 2, 2, num_classes, generator=torch.Generator().manual_seed(seed)) * 3
    expected = [
        sum(-p * log(p) for p in torch.softmax(sample.double(), -1).flatten().tolist() if p) / 12 / log(num_classes)
        for sample in logits
    ]
    assert normalized_entropy(logits).tolist() == pytest.approx(expected, abs=1e-5)


def test_entropy_spans_zero_to_one_and_survives_extreme_logits():
    rows = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0],
            [1e4, 0.0, 0.0, -1e4],
            [1e38, -1e38, 0.0, 0.0],
            [0.0, -torch.inf, -torch.inf, -torch.inf],
            [0.0, 0.0, -torch.inf, -torch.inf],
            [-1e4, -1e4, -1e4, -1e4],
        ]
    )
    entropy = normalized_entropy(rows[:, None, None, None, None, :])
    assert entropy.tolist() == pytest.approx([1, 0, 0, 0, 0.5, 1], abs=1e-6)


def test_entropy_does_not_depend_on_the_rest_of_the_batch():
    """Exact equality: sums over elements must run in the same order whatever the batch."""
    logits = torch.randn(5, 16, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    together = normalized_entropy(logits)
    for sample in range(5):
        assert normalized_entropy(logits[sample : sample + 1]).item() == together[sample].item()


def test_entropy_reads_half_precision_in_float32():
    logits = torch.randn(1, 2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(normalized_entropy(logits), normalized_entropy(logits.float()))


def test_entropy_of_one_class_is_refused():
    with pytest.raises(GenrefineError, match="2 classes"):
        normalized_entropy(torch.zeros(1, 2, 1))


entropies = st.lists(st.floats(0.3, 1.0), min_size=1, max_size=40)


@given(st.lists(st.floats(0.3, 0.9), min_size=2, max_size=40), st.integers(0, 6))
def test_a_fit_to_the_range_sends_the_easiest_to_the_fewest_steps_and_the_hardest_to_the_most(values, warmup):
    if max(values) - min(values) < 1e-3:
        values = [*values, max(values) + 0.05]
    budget = fit_entropy_steps(values, warmup=warmup, min_steps=12, max_steps=40)
    assert budget.total(min(values)) == 12
    assert budget.total(max(values)) == 40
    assert 12 < budget.total((min(values) + max(values)) / 2) < 40


@given(entropies, st.floats(12, 50), st.booleans())
def test_a_fit_to_a_mean_gives_that_mean_within_half_a_step(values, mean, own_minimum):
    budget = fit_entropy_steps(values, mean_steps=mean, min_steps=12 if own_minimum else None)
    totals = [budget.total(value) for value in values]
    assert sum(totals) / len(totals) == pytest.approx(mean, abs=0.5 + 1e-9)
    assert budget.max_steps == 50


@pytest.mark.parametrize("mean", [12.0, 24.0, 25.4, 50.0])
def test_a_fit_to_a_mean_survives_entropies_that_are_all_equal(mean):
    budget = fit_entropy_steps([0.83] * 7, mean_steps=mean)
    assert budget.total(0.83) == pytest.approx(mean, abs=0.5)


def test_a_fit_to_a_mean_spreads_steps_by_difficulty():
    values = [0.5 + i / 200 for i in range(100)]
    budget = fit_entropy_steps(values, mean_steps=25.0)
    totals = [budget.total(value) for value in values]
    assert totals == sorted(totals)
    assert min(totals) == 20
    assert max(totals) >= 35


def test_a_fit_keeps_the_temperature_factor():
    assert fit_entropy_steps([0.5, 0.6], min_temperature_factor=0.5).min_temperature_factor == 0.5


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "got none"),
        ([0.5, 0.5], {}, "all 0.500000"),
        ([0.5, float("nan")], {}, "got nan"),
        ([0.5, 1.2], {}, "got 1.2"),
        ([0.5, 0.6], {"mean_steps": 60.0}, "between"),
        ([0.5, 0.6], {"mean_steps": 3.0}, "between"),
        ([0.5, 0.6], {"min_steps": 5}, "warmup < min_steps"),
        ([0.5, 0.6], {"min_steps": 51}, "min_steps <= max_steps"),
        ([0.5, 0.6], {"warmup": -1}, "warmup"),
        ([0.5, 0.6], {"warmup": 50}, "warmup < min_steps"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(values, options, message):
    with pytest.raises(GenrefineError, match=message):
        fit_entropy_steps(values, **options)


@pytest.mark.parametrize("steps", [0, -1, True])
def test_a_fixed_budget_needs_a_step(steps):
    with pytest.raises(GenrefineError, match="at least 1"):
        FixedSteps(steps)


@pytest.mark.parametrize(
    "arguments",
    [
        (5, 1.0, 0.0, 5, 50),
        (5, 1.0, 0.0, 20, 19),
        (-1, 1.0, 0.0, 20, 50),
        (5, float("nan"), 0.0, 20, 50),
        (5, 1.0, float("inf"), 20, 50),
        (5, 1.0, 0.0, 20, 50, 0.0),
        (5, 1.0, 0.0, 20, 50, 1.5),
    ],
)
def test_an_entropy_budget_out_of_range_is_refused(arguments):
    with pytest.raises(GenrefineError):
        EntropySteps(*arguments)


def test_an_entropy_that_is_no_number_is_refused():
    with pytest.raises(GenrefineError, match="finite"):
        CLASS_MODEL.total(float("nan"))


def test_a_final_pass_reaches_the_end_one_step_early():
    assert progress_of(SpreadSteps(5, final_pass=True)) == [0, 0.25, 0.5, 0.75, 1, 1]
    assert progress_of(SpreadSteps(1, final_pass=True)) == [0, 1]
    budget = PassingEntropySteps(2, 10.0, 0.0, 3, 11, final_pass=True)
    assert budget.total(0.4) == 6
    assert progress_of(budget, 0.4) == pytest.approx([0, 0.1, 0.2, 0.2 + 0.8 / 3, 0.2 + 1.6 / 3, 1, 1])
    assert progress_of(budget, 0.0) == [0, 0.1, 0.2, 1]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.37, 0.01])
@pytest.mark.parametrize("entropy", [0.0, 0.4, 1.0])
def test_a_shortened_budget_goes_the_same_way_in_fewer_steps(share, entropy):
    inner = EntropySteps(warmup=5, slope=40.0, offset=3.0, min_steps=8, max_steps=50, min_temperature_factor=0.5)
    fewer = shortened(inner, share)
    assert isinstance(fewer, StepBudget)
    before, rest = fewer.before(), fewer.after(entropy)
    assert len(before) == ceil(5 * share)
    assert len(rest.progress) == ceil((inner.total(entropy) - 5) * share)
    assert before[-1] == inner.before()[-1]  # the entropy is read at the same progress
    assert rest.progress[-1] == 1
    assert rest.temperature_factor == inner.after(entropy).temperature_factor
    way = torch.cat([before, rest.progress])
    assert torch.all(way.diff() > 0)
    assert len(way) <= fewer.max_steps <= ceil(50 * share) + 1
    if share == 1.0:
        assert torch.equal(way, torch.cat([inner.before(), inner.after(entropy).progress]))


def test_a_shortened_fixed_budget_is_a_fixed_budget():
    assert shortened(FixedSteps(50), 0.5) == FixedSteps(25)
    half = ShortenedSteps(FixedSteps(10), 0.5)
    assert torch.allclose(half.after(0.0).progress, FixedSteps(5).after().progress)
