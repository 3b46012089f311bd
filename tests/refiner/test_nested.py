"""Refiners carried over to codes of other rounds go on saying what they said."""

import pytest
import torch

from genrefine import ClassRefiner, TextRefiner
from genrefine.conditioning.class_condition import ClassCondition
from genrefine.conditioning.text_condition import TextCondition
from genrefine.refiner.nested import to_rounds
from tiny_models import CLASS_NAMES, tiny_refiner, tiny_text_refiner

LATENTS, GRID = 2, (4, 4)
NETWORKS = {"class": tiny_refiner, "text": tiny_text_refiner}


def with_rounds(network: ClassRefiner | TextRefiner, rounds: int) -> ClassRefiner | TextRefiner:
    kind, classes, channels = type(network), network.config["code_classes"], LATENTS * rounds
    grown = kind(**{**network.config, "code_channels": channels}).eval()
    grown.load_state_dict(to_rounds(network.state_dict(), channels, classes, kind is ClassRefiner))
    return grown


def logits(network: ClassRefiner | TextRefiner, codes: torch.Tensor) -> torch.Tensor:
    signal = torch.linspace(0.1, 0.9, len(codes))
    if isinstance(network, ClassRefiner):
        condition = ClassCondition(torch.arange(len(codes)), len(CLASS_NAMES))
    else:
        prompts = [torch.randn(3, 24, generator=torch.Generator().manual_seed(i)) for i in range(len(codes))]
        condition = TextCondition.of(prompts, torch.zeros(1, 24))
    with torch.no_grad():
        return network(codes, signal, condition)


def random_codes(rounds: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (3, LATENTS * rounds, 1, *GRID), generator=generator, dtype=torch.int32)


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("rounds", [3, 5])
def test_further_rounds_change_nothing_and_are_even(build, rounds):
    network = build()
    grown, codes = with_rounds(network, rounds), random_codes(2)
    before = logits(network, codes)
    for seed in (1, 2):  # whatever the further rounds hold
        after = logits(grown, torch.cat([codes, random_codes(rounds - 2, seed)], dim=1))
        torch.testing.assert_close(after[:, : before.shape[1]], before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(after[:, before.shape[1] :].softmax(-1), torch.full_like(after[:, 4:], 0.5))
    assert before.std() > 0.1  # the network has an opinion to keep


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_there_and_back_is_the_same_network(build):
    network = build()
    back = with_rounds(with_rounds(network, 4), 2).state_dict()
    assert all(torch.equal(back[name], weight) for name, weight in network.state_dict().items())


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_further_rounds_learn_from_the_first_update_on(build):
    grown = with_rounds(build(), 3)
    codes = random_codes(3)
    condition = ClassCondition(torch.arange(3), len(CLASS_NAMES))
    if isinstance(grown, TextRefiner):
        condition = TextCondition.of([torch.ones(2, 24)] * 3, torch.zeros(1, 24))
    output = grown(codes, torch.full((3,), 0.5), condition)
    torch.nn.functional.cross_entropy(output.flatten(0, -2), codes.flatten().long()).backward()
    written = grown.head.linear.weight.grad
    rows = written.unflatten(0, (2, 6) if isinstance(grown, ClassRefiner) else (6, 2))
    of_new = rows[:, 4:] if isinstance(grown, ClassRefiner) else rows[4:]
    assert of_new.abs().sum() > 0
