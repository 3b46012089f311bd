"""Distances between sets of features against independent computations."""

import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from genrefine.errors import GenrefineError
from genrefine.evaluation.frechet import frechet_distance, kernel_distance


def _features(count: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)) / dim**0.5
    return torch.randn(count, dim, generator=generator) @ mixing + shift


class AsTheyAre(torch.nn.Module):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


@pytest.mark.parametrize(
    "counts", [(200, 150), (40, 30), (10, 12)], ids=["more", "about as many", "fewer than features"]
)
def test_frechet_distance_equals_the_definition_with_a_matrix_root(counts):
    a, b = _features(counts[0], 32, 0).double(), _features(counts[1], 32, 1, shift=0.3).double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # A tiny ridge keeps scipy's root of a singular product finite; it moves the trace by less than the tolerance.
    ridge = 1e-10 * torch.eye(32, dtype=torch.float64)
    root = torch.from_numpy(sqrtm(((cov_a + ridge) @ (cov_b + ridge)).numpy()).real)
    expected = (a.mean(0) - b.mean(0)).square().sum() + (cov_a + cov_b - 2 * root).trace()
    assert frechet_distance(a.float(), b.float()) == pytest.approx(expected.item(), rel=1e-4)


def test_frechet_distance_equals_that_of_torchmetrics():
    a, b = _features(300, 16, 0), _features(250, 16, 1, shift=0.2)
    metric = FrechetInceptionDistance(feature=AsTheyAre(16))
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert frechet_distance(a, b) == pytest.approx(metric.compute().item(), rel=1e-4)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_the_order_does_not_matter():
    a, b = _features(20, 32, 0), _features(30, 32, 1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_frechet_distance_of_a_shifted_set_is_the_squared_shift():
    a = _features(50, 8, 0)
    assert frechet_distance(a, a + 0.5) == pytest.approx(8 * 0.25, rel=1e-5)


def test_frechet_distance_of_two_halves_shrinks_with_their_size():
    # The bias that the module warns of.
    small = frechet_distance(_features(50, 32, 0), _features(50, 32, 1))
    large = frechet_distance(_features(2000, 32, 0), _features(2000, 32, 1))
    assert small > 5 * large


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_kernel_distance_equals_that_of_torchmetrics_on_whole_sets():
    a, b = _features(60, 16, 0), _features(60, 16, 1, shift=0.2)
    metric = KernelInceptionDistance(feature=AsTheyAre(16), subsets=1, subset_size=60)
    metric.update(a, real=True)
    metric.update(b, real=False)
    found = kernel_distance(a, b, torch.Generator().manual_seed(0), subset_size=60, num_subsets=1)
    assert found.mean == pytest.approx(metric.compute()[0].item(), rel=1e-4)
    assert (found.num_subsets, found.subset_size, found.std) == (1, 60, 0.0)


def test_kernel_distance_equals_a_double_loop_over_pairs():
    a, b = _features(7, 4, 0).double(), _features(7, 4, 1, shift=0.5).double()

    def kernel(x, y):
        return (float(x @ y) / 4 + 1) ** 3

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(kernel(s[i], s[j]) for s in (a, b) for i, j in pairs if i != j) / 42
    across = sum(kernel(a[i], b[j]) for i, j in pairs) / 49
    found = kernel_distance(a.float(), b.float(), torch.Generator().manual_seed(0), subset_size=7, num_subsets=1)
    assert found.mean == pytest.approx(within - 2 * across, rel=1e-5)


def test_kernel_distance_of_one_distribution_is_zero_on_average_at_any_size():
    found = [
        kernel_distance(_features(n, 16, n), _features(n, 16, n + 1), torch.Generator().manual_seed(0), 50, 40).mean
        for n in (100, 400, 1600)
    ]
    far = kernel_distance(_features(400, 16, 0), _features(400, 16, 1, 0.5), torch.Generator().manual_seed(0)).mean
    assert max(abs(value) for value in found) < 0.1 * far


def test_kernel_distance_repeats_with_the_same_generator_seed_and_leaves_the_global_state_alone():
    a, b = _features(30, 8, 0), _features(40, 8, 1)
    before = torch.get_rng_state()
    first, second = (kernel_distance(a, b, torch.Generator().manual_seed(3), 10, 5) for _ in range(2))
    assert first == second
    assert first.std > 0
    assert first.subset_size == 10
    assert kernel_distance(a, b, torch.Generator()).subset_size == 15  # half of the smaller set
    assert torch.equal(before, torch.get_rng_state())


def test_sets_that_cannot_be_compared_are_refused():
    generator = torch.Generator()
    with pytest.raises(GenrefineError, match="at least 2 pictures; got 1 and 5"):
        frechet_distance(_features(1, 4, 0), _features(5, 4, 1))
    with pytest.raises(GenrefineError, match="one extractor; got 4 and 8"):
        kernel_distance(torch.randn(5, 4, generator=generator), torch.randn(5, 8, generator=generator), generator)
    with pytest.raises(GenrefineError, match=r"subset_size in 2\.\.5"):
        kernel_distance(_features(5, 4, 0), _features(5, 4, 1), generator, subset_size=1)
