"""The sampler's laws: one seed one sample, counted evaluations, honest records, exact posteriors as an oracle."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.errors import GenrefineError
from genrefine.refiner import ClassRefiner
from genrefine.sampling.budgets import EntropySteps, FixedSteps
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.exact import ExactRefiner
from genrefine.sampling.guidance import Guidance, PowerCosineGuidance, apply_guidance
from genrefine.sampling.kernels import ExactKernel, RefreshKernel, RefreshThenExactKernel
from genrefine.sampling.random_source import SeededSource
from genrefine.sampling.records import collect
from genrefine.sampling.sampler import refine
from genrefine.sampling.schedules import CosineSchedule
from genrefine.sampling.settings import SamplingSettings

NUM_LABELS, NUM_CLASSES, SHAPE = 6, 4, (3, 1, 4, 4)
KERNELS = [RefreshKernel(), ExactKernel(), RefreshThenExactKernel(0.5)]
# The tiny network's entropies after two steps lie between 0.52 and 0.65, so that totals spread from 3 to 12.
ADAPTIVE = EntropySteps(warmup=2, slope=80.0, offset=-42.0, min_steps=3, max_steps=12)


class CountingRefiner:
    """Pass calls on to a network and count the rows it is given."""

    def __init__(self, refiner):
        self.refiner, self.rows = refiner, []

    def __call__(self, codes, signal, condition):
        self.rows.append(len(codes))
        return self.refiner(codes, signal, condition)


@pytest.fixture(scope="module")
def network():
    """Return a real class refiner with weights that make it opinionated, differently for every class."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        refiner = ClassRefiner(
            code_channels=3, code_classes=NUM_CLASSES, grid=(4, 4), num_classes=NUM_LABELS, width=32, depth=2,
            num_heads=2, bottleneck=8, in_context_tokens=2, in_context_start=1,
        )  # fmt: skip
        for name, parameter in refiner.named_parameters():
            if "modulation" in name or "head.linear" in name:
                torch.nn.init.normal_(parameter, std=0.1 if "modulation" in name else 0.3)
        torch.nn.init.normal_(refiner.class_embedding.weight)
    return refiner.eval()


def run(network, seeds, labels, how, noise=None):
    guided = apply_guidance(network, ClassCondition.of(labels, NUM_LABELS), how.guidance)
    return list(refine(guided, SeededSource(seeds), SHAPE, NUM_CLASSES, how, noise))


SETTINGS = {
    "fixed": SamplingSettings(FixedSteps(7), Guidance(2.5, (0.3, 0.9)), temperature=0.9),
    "exact kernel": SamplingSettings(FixedSteps(7), Guidance(2.5, (0.3, 0.9)), kernel=ExactKernel()),
    "adaptive": SamplingSettings(ADAPTIVE, Guidance(2.5, (0.3, 0.9)), temperature=0.9),
    "adaptive, cooler": SamplingSettings(replace(ADAPTIVE, min_temperature_factor=0.25), Guidance(2.5)),
    "adaptive, everything else": SamplingSettings(
        ADAPTIVE, PowerCosineGuidance(3.0, 1.5), CosineSchedule(), RefreshThenExactKernel(0.4), 1.2
    ),
}


@pytest.mark.parametrize("how", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_seed_gives_the_same_codes_alone_in_a_batch_and_in_any_order(network, how):
    """Bit for bit, entropies included, whatever the others in the batch are and when they finish."""
    seeds, labels = [11, 7, 2**40 + 3, 0, 12], [0, 1, 2, 3, 5]
    together = collect(run(network, seeds, labels, how))
    order = [3, 0, 4, 2, 1]
    shuffled = collect(run(network, [seeds[i] for i in order], [labels[i] for i in order], how))
    if isinstance(how.steps, EntropySteps):
        assert len(set(together.num_steps.tolist())) > 2, "budgets must differ for the test to mean something"
    for place, i in enumerate(order):
        alone = collect(run(network, [seeds[i]], [labels[i]], how))
        for result, row in ((together, i), (shuffled, place)):
            assert torch.equal(result.codes[row], alone.codes[0])
            assert result.num_steps[row] == alone.num_steps[0]
            assert result.num_evaluations[row] == alone.num_evaluations[0]
            assert result.entropy[row] == alone.entropy[0]


def test_other_seeds_and_other_classes_give_other_codes(network):
    result = collect(run(network, [1, 1, 2], [0, 1, 0], SETTINGS["fixed"]))
    assert torch.equal(result.codes[0], collect(run(network, [1], [0], SETTINGS["fixed"])).codes[0])
    assert not torch.equal(result.codes[0], result.codes[1])
    assert not torch.equal(result.codes[0], result.codes[2])


def test_a_generator_and_its_seed_give_the_same_codes(network):
    how = SETTINGS["fixed"]
    guided = apply_guidance(network, ClassCondition.of([3], NUM_LABELS), how.guidance)
    draws = SeededSource.from_generators([torch.Generator().manual_seed(5)])
    assert torch.equal(
        collect(refine(guided, draws, SHAPE, NUM_CLASSES, how)).codes, collect(run(network, [5], [3], how)).codes
    )


def test_finished_samples_leave_the_network_call(network):
    """A batch whose mean is half the steps takes half the network's evaluations: rows are counted at the network."""
    seeds, labels, counting = range(8), [0, 1, 2, 3, 4, 5, 0, 1], CountingRefiner(network)
    entropy = run(network, seeds, labels, SamplingSettings(FixedSteps(20)))[2].entropy
    # A steep slope at the median: half of the batch stops soon after the warm-up, the other half goes on to the end.
    split = EntropySteps(2, 1e6, -1e6 * sum(sorted(entropy.tolist())[3:5]) / 2, 4, 20)
    result = collect(run(counting, seeds, labels, SamplingSettings(split)))
    assert sorted(result.num_steps.tolist()) == [4] * 4 + [20] * 4
    assert counting.rows == [8] * 4 + [4] * 16
    assert sum(counting.rows) == result.num_evaluations.sum() == result.num_steps.sum() == 8 * 12
    fixed = CountingRefiner(network)
    run(fixed, range(8), [0] * 8, SamplingSettings(FixedSteps(24)))
    assert sum(counting.rows) * 2 == sum(fixed.rows)


def test_evaluations_are_counted_per_sample_with_guidance_and_adaptive_steps(network):
    counting = CountingRefiner(network)
    result = collect(run(counting, [1, 2, 3, 4], [0, 1, 2, 3], SETTINGS["adaptive"]))
    assert sum(counting.rows) == result.num_evaluations.sum()
    assert len(counting.rows) == result.num_steps.max()
    low, high = torch.tensor(0.3), torch.tensor(0.9)
    for total, evaluations, trace in zip(
        result.num_steps.tolist(), result.num_evaluations.tolist(), result.entropy, strict=True
    ):
        rest = ADAPTIVE.after(trace[ADAPTIVE.warmup]).progress
        signals = torch.cat([torch.zeros(1), ADAPTIVE.before(), rest])[:total].float()
        assert evaluations == total + ((signals > low) & (signals < high)).sum()


def test_a_step_outside_the_interval_costs_half_of_one_inside(network):
    counting = CountingRefiner(network)
    run(counting, [1, 2, 3], [0, 1, 2], SamplingSettings(FixedSteps(10), Guidance(2.0, (0.35, 0.75))))
    assert counting.rows == [3, 3, 3, 3, 6, 6, 6, 6, 3, 3]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("steps", [FixedSteps(6), ADAPTIVE])
def test_records_say_what_happened(network, kernel, steps):
    records = run(network, range(5), [0, 1, 2, 3, 4], SamplingSettings(steps, Guidance(2.0), kernel=kernel))
    result = collect(records)
    held = torch.zeros(5, *SHAPE, dtype=torch.bool)
    signal, unfinished = torch.zeros(5), torch.arange(5)
    for index, record in enumerate(records):
        assert record.index == index
        assert torch.equal(record.active, unfinished)
        assert torch.equal(record.was_held, held[record.active])
        assert torch.equal(record.signal, signal[record.active])
        assert (record.next_signal > record.signal).all()
        shares = torch.stack([record.filled, record.kept, record.erased, record.blank]).int()
        assert (shares.sum(0) == 1).all(), "every element did one of the four"
        assert torch.equal(record.filled | record.kept, record.is_held)
        assert record.num_samples == 5
        if index < len(steps.before()):
            assert record.num_steps is None
        else:
            assert torch.equal(record.num_steps, result.num_steps[record.active])
        assert (record.entropy >= 0).all()
        assert (record.entropy <= 1).all()
        assert record.prediction.dtype == record.state.dtype == torch.int32
        held[record.active], signal[record.active] = record.is_held, record.next_signal
        assert torch.equal(result.codes[record.active[record.finished]], record.prediction[record.finished])
        unfinished = record.active[~record.finished]
    assert len(unfinished) == 0
    assert signal.tolist() == [1.0] * 5
    assert held.all()
    assert [len(trace) for trace in result.entropy] == result.num_steps.tolist()


def test_the_refresh_kernel_fills_with_the_prediction_and_erases_to_the_first_noise(network):
    seeds = [1, 2]
    noise = SeededSource(seeds).codes(NUM_CLASSES, SHAPE)
    records = run(network, seeds, [0, 1], SamplingSettings(FixedSteps(8)))
    assert torch.equal(records[-1].state, records[-1].prediction)
    for record in records:
        assert torch.equal(record.state, torch.where(record.is_held, record.prediction, noise))
    assert sum(record.erased.sum() for record in records) > 0
    assert not records[0].kept.any()
    assert not records[0].erased.any()


def test_giving_the_noise_that_would_be_drawn_changes_nothing(network):
    how, seeds = SETTINGS["adaptive"], [4, 9]
    noise = SeededSource(seeds).codes(NUM_CLASSES, SHAPE)
    plain, given_ = collect(run(network, seeds, [0, 1], how)), collect(run(network, seeds, [0, 1], how, noise))
    other = collect(run(network, seeds, [0, 1], how, (noise + 1) % NUM_CLASSES))
    assert torch.equal(plain.codes, given_.codes)
    assert not torch.equal(plain.codes, other.codes)


def test_one_step_is_one_draw_from_the_network_at_pure_noise(network):
    records = run(network, [3], [2], SamplingSettings(FixedSteps(1)))
    draws = SeededSource([3])
    noise = draws.codes(NUM_CLASSES, SHAPE)
    with torch.no_grad():
        logits = network(noise, torch.zeros(1), ClassCondition.of([2], NUM_LABELS))
    expected = (logits.softmax(-1) / draws.exponential((*SHAPE, NUM_CLASSES))).argmax(-1)
    assert len(records) == 1
    assert torch.equal(records[0].prediction.long(), expected)


def test_sampling_touches_neither_the_global_generator_nor_the_gradient_mode(network):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    guided = apply_guidance(network, ClassCondition.of([0], NUM_LABELS), Guidance())
    for record in refine(guided, SeededSource([0]), SHAPE, NUM_CLASSES, SamplingSettings(FixedSteps(2))):
        assert torch.is_grad_enabled()
        assert not record.prediction.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_a_cold_temperature_takes_the_most_likely_codes(network):
    records = run(network, [3], [2], SamplingSettings(FixedSteps(1), temperature=1e-4))
    noise = SeededSource([3]).codes(NUM_CLASSES, SHAPE)
    with torch.no_grad():
        logits = network(noise, torch.zeros(1), ClassCondition.of([2], NUM_LABELS))
    assert torch.equal(records[0].prediction.long(), logits.argmax(-1))


@pytest.mark.parametrize("extreme", [1e4, 1e30, float("inf")])
def test_extreme_logits_give_neither_nan_nor_a_forbidden_code(extreme):
    def certain(codes, signal, condition):
        logits = torch.zeros(*codes.shape, NUM_CLASSES)
        logits[..., 0] = -extreme
        logits[..., 1] = -extreme
        return logits

    result = collect(run(certain, [0, 1], [0, 1], SamplingSettings(FixedSteps(4), Guidance(2.0))))
    assert result.codes.min() >= 2
    assert torch.tensor(result.entropy).flatten().tolist() == pytest.approx([0.5] * 8)


def test_nan_logits_are_refused(network):
    for branch in ("conditional", "unconditional"):

        def broken(codes, signal, condition, branch=branch):
            is_null = condition.labels == NUM_LABELS
            logits = torch.zeros(*codes.shape, NUM_CLASSES)
            logits[is_null if branch == "unconditional" else ~is_null] = float("nan")
            return logits

        with pytest.raises(GenrefineError, match="NaN"):
            run(broken, [0], [0], SamplingSettings(FixedSteps(2), Guidance(2.0)))


def test_what_does_not_fit_together_is_refused(network):
    with pytest.raises(GenrefineError, match="2 conditions and 1 seeds"):
        run(network, [0], [0, 1], SETTINGS["fixed"])
    with pytest.raises(GenrefineError, match="noise must be codes"):
        run(network, [0], [0], SETTINGS["fixed"], torch.zeros(1, 3, 1, 4, 5, dtype=torch.int32))
    with pytest.raises(GenrefineError, match=r"0 \.\. 3"):
        run(network, [0], [0], SETTINGS["fixed"], torch.full((1, *SHAPE), NUM_CLASSES, dtype=torch.int32))
    with pytest.raises(GenrefineError, match="at least one step"):
        collect([])


# The exact posterior as an oracle. Positions of one map are independent runs, so that a simulation is one sample.
RUNS = 20_000
PAIRS = [[0, 0], [0, 1], [1, 0], [1, 1]]


def simulate(outcomes, law, num_classes, num_steps, kernel, label=0, guidance=None):
    refiner = ExactRefiner(torch.tensor(outcomes), torch.tensor(law), num_classes)
    how = SamplingSettings(FixedSteps(num_steps), guidance or Guidance(), kernel=kernel)
    guided = apply_guidance(refiner, ClassCondition.of([label], len(law)), how.guidance)
    shape = (len(outcomes[0]), 1, 1, RUNS)
    return collect(refine(guided, SeededSource([num_steps]), shape, num_classes, how)).codes[0, :, 0, 0]


def total_variation(codes, law):
    counts = torch.bincount(2 * codes[0].long() + codes[1].long(), minlength=4).double() / codes.shape[1]
    return (counts - torch.tensor(law, dtype=torch.float64)).abs().sum().item() / 2


SKEWED, EVEN, FULL = [0.8, 0.0, 0.0, 0.2], [0.5, 0.0, 0.0, 0.5], [0.5, 0.1, 0.15, 0.25]
TABLE = [  # law, kernel, {number of steps: total variation to the law}; the table of the method's section 3
    (SKEWED, RefreshKernel(), {5: 0.099, 20: 0.051, 50: 0.039}),
    (SKEWED, ExactKernel(), {5: 0.094, 20: 0.026, 50: 0.011}),
    (EVEN, RefreshKernel(), {5: 0.165, 20: 0.048, 50: 0.020}),
    (EVEN, ExactKernel(), {5: 0.160, 20: 0.041, 50: 0.016}),
    (FULL, RefreshKernel(), {5: 0.061, 20: 0.005, 50: 0.016}),
    (FULL, ExactKernel(), {5: 0.061, 20: 0.015, 50: 0.004}),
]


@pytest.mark.parametrize(("law", "kernel", "expected"), TABLE, ids=lambda value: type(value).__name__)
def test_two_bits_come_as_far_from_the_truth_as_the_method_says(law, kernel, expected):
    for num_steps, variation in expected.items():
        codes = simulate(PAIRS, [law], 2, num_steps, kernel)
        assert total_variation(codes, law) == pytest.approx(variation, abs=0.01), f"{num_steps} steps"


def test_the_exact_reverse_beats_refreshing_on_skewed_pairs():
    errors = [total_variation(simulate(PAIRS, [SKEWED], 2, 20, kernel), SKEWED) for kernel in KERNELS[:2]]
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_single_elements_are_exact_for_any_number_of_steps(kernel, num_steps):
    law = [0.05, 0.5, 0.15, 0.3]
    codes = simulate([[0], [1], [2], [3]], [law], 4, num_steps, kernel)
    shares = torch.bincount(codes[0], minlength=4) / RUNS
    for share, probability in zip(shares.tolist(), law, strict=True):
        assert share == pytest.approx(probability, abs=4.5 * (probability * (1 - probability) / RUNS) ** 0.5)


def test_a_class_is_sampled_from_its_own_law_and_guidance_sharpens_it():
    laws = [[0.7, 0.0, 0.0, 0.3], [0.2, 0.0, 0.0, 0.8]]
    plain, other, guided = (
        simulate(PAIRS, laws, 2, 25, ExactKernel(), label, guidance)
        for label, guidance in ((0, None), (1, None), (0, Guidance(2.0)))
    )
    assert total_variation(plain, laws[0]) < 0.03
    assert total_variation(other, laws[1]) < 0.03
    assert (guided[0] == 0).double().mean() > (plain[0] == 0).double().mean() + 0.1


@settings(max_examples=25)
@given(
    st.integers(0, 2**63 - 1),
    st.sampled_from(KERNELS),
    st.integers(1, 6),
    st.sampled_from([2, 3, 5]),
    st.floats(0.2, 3),
    st.floats(0.3, 4),
)
def test_any_settings_give_codes_in_range_and_whole_records(seed, kernel, num_steps, num_classes, temperature, scale):
    outcomes = [[v, (v + 1) % num_classes] for v in range(num_classes)]
    refiner = ExactRefiner(torch.tensor(outcomes), torch.full((2, num_classes), 1 / num_classes), num_classes)
    how = SamplingSettings(FixedSteps(num_steps), Guidance(scale), kernel=kernel, temperature=temperature)
    result = collect(
        refine(
            apply_guidance(refiner, ClassCondition.of([0, 1], 2), how.guidance),
            SeededSource([seed, 0]),
            (2, 1, 1, 3),
            num_classes,
            how,
        )
    )
    assert result.codes.min() >= 0
    assert result.codes.max() < num_classes
    assert result.num_steps.tolist() == [num_steps] * 2


def test_the_component_samples_as_its_parts_do(network):
    sampler = RefinementSampler(
        num_inference_steps=7, guidance_scale=2.5, guidance_interval=(0.3, 0.9), temperature=0.9
    )
    condition = ClassCondition.of([0, 1], NUM_LABELS)
    result = sampler.sample(network, condition, SeededSource([1, 2]), SHAPE, NUM_CLASSES)
    assert torch.equal(result.codes, collect(run(network, [1, 2], [0, 1], SETTINGS["fixed"])).codes)
    shorter = sampler.settings(num_inference_steps=3)
    assert sampler.sample(network, condition, SeededSource([1, 2]), SHAPE, NUM_CLASSES, shorter).num_steps.tolist() == [
        3,
        3,
    ]


def test_warmup_entropies_are_those_that_the_adaptive_run_decides_on(network):
    sampler = RefinementSampler(
        num_inference_steps=7, guidance_scale=2.5, guidance_interval=(0.1, 0.9), temperature=0.9
    ).calibrated(ADAPTIVE)
    condition = ClassCondition.of([0, 1, 2], NUM_LABELS)
    counting, nominal = CountingRefiner(network), sampler.settings(num_inference_steps=ADAPTIVE.max_steps)
    guided = apply_guidance(counting, condition, nominal.guidance)
    steps = refine(guided, SeededSource([1, 2, 3]), SHAPE, NUM_CLASSES, nominal)
    entropy = next(islice(steps, ADAPTIVE.warmup, None)).entropy
    assert len(counting.rows) == ADAPTIVE.warmup + 1, "whoever reads no further steps pays for no further steps"
    adaptive = sampler.settings(adaptive=True)
    result = sampler.sample(network, condition, SeededSource([1, 2, 3]), SHAPE, NUM_CLASSES, adaptive)
    assert entropy.tolist() == [trace[ADAPTIVE.warmup] for trace in result.entropy]
    assert result.num_steps.tolist() == [ADAPTIVE.total(value) for value in entropy.tolist()]
