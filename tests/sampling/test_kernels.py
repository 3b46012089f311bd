"""Kernels: the exact reverse against its formula, and both against what they promise at the ends."""

import itertools

import pytest
import torch
from scipy import stats

from genrefine.errors import GenrefineError
from genrefine.sampling.kernels import ExactKernel, Kernel, RefreshKernel, RefreshThenExactKernel, State, Transition

KERNELS = [RefreshKernel(), ExactKernel(), RefreshThenExactKernel(0.5)]


def as_codes(values):
    return torch.as_tensor(values, dtype=torch.int32).reshape(1, 1, 1, 1, -1)


def transition(prediction, noise, signal, next_signal, num_classes, seed=0):
    uniform = torch.rand(prediction.shape, generator=torch.Generator().manual_seed(seed))
    batch = len(prediction)
    return Transition(
        prediction, noise, uniform, torch.full((batch,), signal), torch.full((batch,), next_signal), num_classes
    )


def random_case(num_classes, seed=0, shape=(3, 2, 1, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(num_classes, shape, generator=generator, dtype=torch.int32) for _ in range(3)]
    held = torch.rand(shape, generator=generator) < 0.5
    return State(codes[0], held), codes[1], codes[2]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("num_classes", [2, 3, 16])
def test_at_signal_one_the_state_is_the_prediction(kernel, num_classes):
    state, prediction, noise = random_case(num_classes)
    out = kernel(state, transition(prediction, noise, 0.7, 1.0, num_classes))
    assert torch.equal(out.codes, prediction)
    assert out.held.all()
    assert isinstance(kernel, Kernel)


def test_refreshed_elements_are_prediction_or_their_own_noise():
    state, prediction, noise = random_case(16)
    out = RefreshKernel()(state, transition(prediction, noise, 0.2, 0.6, 16))
    assert torch.equal(out.codes, torch.where(out.held, prediction, noise))
    assert out.held.double().mean().item() == pytest.approx(0.6, abs=0.1)


def exact_law(x, y, signal, later, num_classes):
    """The formula of the module, class by class."""
    stays = signal / later
    weights = [
        (stays * (v == x) + (1 - stays) / num_classes) * (later * (v == y) + (1 - later) / num_classes)
        for v in range(num_classes)
    ]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("num_classes", [2, 3, 4, 7])
@pytest.mark.parametrize(("signal", "later"), [(0.0, 0.3), (0.2, 0.4), (0.5, 0.9), (0.9, 0.95)])
def test_the_exact_kernel_follows_its_formula(num_classes, signal, later):
    draws, smallest = 20_000, []
    for x, y in itertools.product(range(num_classes), repeat=2):
        shape = (1, 1, 1, 1, draws)
        state = State(torch.full(shape, x, dtype=torch.int32), torch.zeros(shape, dtype=torch.bool))
        prediction = torch.full(shape, y, dtype=torch.int32)
        step = transition(prediction, prediction, signal, later, num_classes, seed=100 * x + y)
        counts = torch.bincount(ExactKernel()(state, step).codes.flatten(), minlength=num_classes).double()
        assert len(counts) == num_classes
        expected = torch.tensor(exact_law(x, y, signal, later, num_classes), dtype=torch.float64) * draws
        expected *= counts.sum() / expected.sum()  # scipy compares the sums to 1e-8
        smallest.append(stats.chisquare(counts.numpy(), expected.numpy()).pvalue)
    assert min(smallest) > 1e-5


@pytest.mark.parametrize("num_classes", [2, 16])
def test_the_exact_kernel_keeps_the_marginals_of_the_corruption(num_classes):
    """If Y is clean and X_t its corruption, X_t' must be the corruption at t'."""
    generator = torch.Generator().manual_seed(0)
    shape, signal, later = (1, 1, 1, 1, 100_000), 0.3, 0.7
    clean = torch.randint(num_classes, shape, generator=generator, dtype=torch.int32)
    noise = torch.randint(num_classes, shape, generator=generator, dtype=torch.int32)
    kept = torch.rand(shape, generator=generator) < signal
    state = State(torch.where(kept, clean, noise), kept)
    out = ExactKernel()(state, transition(clean, noise, signal, later, num_classes, seed=1))
    agreement = (out.codes == clean).double().mean().item()
    assert agreement == pytest.approx(later + (1 - later) / num_classes, abs=0.006)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_exact_kernel_stands_still_with_the_signal(num_classes):
    state, prediction, noise = random_case(num_classes)
    for signal in (0.0, 0.4, 0.95):
        assert torch.equal(
            ExactKernel()(state, transition(prediction, noise, signal, signal, num_classes)).codes, state.codes
        )


def test_under_the_exact_kernel_an_element_holds_what_agrees_or_what_it_kept():
    state, prediction, noise = random_case(4)
    out = ExactKernel()(state, transition(prediction, noise, 0.3, 0.6, 4))
    agrees, unmoved = out.codes == prediction, out.codes == state.codes
    assert torch.equal(out.held, agrees | (state.held & unmoved))
    assert (out.held & ~agrees).any()
    assert (~out.held & state.held).any()


def test_the_mixed_kernel_switches_sample_by_sample():
    state, prediction, noise = random_case(4)
    step = transition(prediction, noise, 0.3, 0.6, 4)
    signal, later = torch.tensor([0.49, 0.5, 0.7]), torch.tensor([0.6, 0.6, 0.8])
    step = Transition(step.prediction, step.noise, step.uniform, signal, later, 4)
    out, early, late = (k(state, step) for k in (RefreshThenExactKernel(0.5), RefreshKernel(), ExactKernel()))
    for row, expected in enumerate([early, late, late]):
        assert torch.equal(out.codes[row], expected.codes[row])
        assert torch.equal(out.held[row], expected.held[row])
    assert not torch.equal(early.codes[0], late.codes[0])


@pytest.mark.parametrize("switch", [0.0, 1.0, -1.0, float("nan")])
def test_a_switch_is_a_signal_between_the_ends(switch):
    with pytest.raises(GenrefineError, match="switch"):
        RefreshThenExactKernel(switch)
