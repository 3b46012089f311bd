"""The exact refiner against Bayes' rule by enumeration."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.errors import GenrefineError
from genrefine.sampling.exact import ExactRefiner

OUTCOMES = [[0, 0, 1], [1, 2, 0], [2, 2, 2], [0, 1, 2]]
LAWS = [[0.5, 0.1, 0.15, 0.25], [0.05, 0.7, 0.2, 0.05]]
REFINER = ExactRefiner(torch.tensor(OUTCOMES), torch.tensor(LAWS), code_classes=3)


def posterior_by_enumeration(x, signal, law):
    """Sum over every noise and every mask: nothing of Bayes' rule but its definition."""
    weights = []
    for outcome, prior in zip(OUTCOMES, law, strict=True):
        likelihood = 0.0
        for kept in itertools.product([True, False], repeat=3):
            chance = 1.0
            for channel, keep in enumerate(kept):
                chance *= signal * (x[channel] == outcome[channel]) if keep else (1 - signal) / 3
            likelihood += chance
        weights.append(prior * likelihood)
    total = sum(weights)
    return [
        [sum(w for w, o in zip(weights, OUTCOMES, strict=True) if o[c] == v) / total for v in range(3)]
        for c in range(3)
    ]


@given(st.lists(st.integers(0, 2), min_size=3, max_size=3), st.floats(0, 0.96875, width=32), st.integers(0, 2))
def test_logits_are_the_logarithm_of_the_posterior_marginals(x, signal, label):
    law = LAWS[label] if label < 2 else [sum(pair) / 2 for pair in zip(*LAWS, strict=True)]
    codes = torch.tensor(x, dtype=torch.int32).reshape(1, 3, 1, 1, 1)
    logits = REFINER(codes, torch.tensor([signal]), ClassCondition.of([label], 2))
    expected = torch.tensor(posterior_by_enumeration(x, signal, law))
    torch.testing.assert_close(logits.exp()[0, :, 0, 0, 0], expected, atol=1e-5, rtol=1e-4)


def test_positions_and_samples_are_independent():
    codes = torch.randint(3, (2, 3, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    signal, labels = torch.tensor([0.2, 0.6]), [0, 1]
    together = REFINER(codes, signal, ClassCondition.of(labels, 2))
    for b, row, column in itertools.product(range(2), repeat=3):
        single = codes[b : b + 1, :, :, row : row + 1, column : column + 1]
        alone = REFINER(single, signal[b : b + 1], ClassCondition.of(labels[b : b + 1], 2))
        torch.testing.assert_close(alone[0, :, 0, 0, 0], together[b, :, 0, row, column])


def test_rows_that_are_no_distribution_are_refused():
    with pytest.raises(GenrefineError, match="distribution"):
        ExactRefiner(torch.tensor([[0], [1]]), torch.tensor([[0.5, 0.6]]), 2)
    with pytest.raises(GenrefineError, match="distribution"):
        ExactRefiner(torch.tensor([[0], [1]]), torch.tensor([[1.5, -0.5]]), 2)
