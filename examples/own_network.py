"""Sample with a network of your own, and see what a sampler adds to its errors.

The sampler asks nothing of a network but `(codes, signal, condition) -> logits`. Here the network is not learned: it is
Bayes' rule for a distribution that we know, two correlated bits at every position of a map. What the samples get wrong
is then the sampler's own doing, and it can be compared: the published refresh kernel, the exact reverse, and one after
the other, at several numbers of steps.

    python examples/own_network.py --steps 5 20 100
"""

import argparse

import torch

from genrefine import RefinementSampler
from genrefine.conditioning.class_condition import ClassCondition
from genrefine.sampling.exact import ExactRefiner
from genrefine.sampling.random_source import SeededSource

OUTCOMES = torch.tensor([[0, 0], [1, 1]])
PROBABILITIES = torch.tensor([0.8, 0.2])
KERNELS = {"refresh": None, "exact": None, "refresh-then-exact": 0.5}


def total_variation(codes: torch.Tensor) -> float:
    """Return half the summed difference between the frequencies of 00, 01, 10, 11 and their probabilities."""
    pairs = (2 * codes[:, 0] + codes[:, 1]).flatten()
    found = torch.bincount(pairs, minlength=4) / len(pairs)
    wanted = torch.zeros(4).index_add(0, 2 * OUTCOMES[:, 0] + OUTCOMES[:, 1], PROBABILITIES)
    return float((found - wanted).abs().sum() / 2)


def main(arguments: list[str] | None = None) -> dict[tuple[str, int], float]:
    """Print a table of errors and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    parser.add_argument("--side", type=int, default=64, help="positions of the map, each an independent pair of bits")
    parser.add_argument("--samples", type=int, default=8, help="maps, each with its own seed")
    chosen = parser.parse_args(arguments)

    network = ExactRefiner(OUTCOMES, PROBABILITIES[None], code_classes=2)  # any callable with this signature will do
    sampler = RefinementSampler()
    condition = ClassCondition.of([0] * chosen.samples, num_classes=1)
    errors = {}
    print(f"{'kernel':<20}" + "".join(f"{steps:>8} steps" for steps in chosen.steps))
    for kernel, switch in KERNELS.items():
        for steps in chosen.steps:
            settings = sampler.settings(num_inference_steps=steps, kernel=kernel, kernel_switch=switch)
            seeds = SeededSource(range(chosen.samples))
            result = sampler.sample(network, condition, seeds, (2, 1, chosen.side, chosen.side), 2, settings)
            errors[kernel, steps] = total_variation(result.codes)
        print(f"{kernel:<20}" + "".join(f"{errors[kernel, steps]:>14.4f}" for steps in chosen.steps))
    print(f"total variation to the truth; chance alone leaves about {0.5 / (chosen.side * chosen.samples**0.5):.4f}")
    return errors


if __name__ == "__main__":
    main()
