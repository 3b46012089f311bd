"""Converted networks are the published ones in sizes and layouts that no recording has."""

import pytest
import torch
from published_networks import class_forward, random_class_weights, random_text_weights, text_forward

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.conditioning.text_condition import TextCondition
from genrefine.convert import Hints, network_from_weights

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize(
    ("heads", "head_dim", "side", "start", "channels", "classes"),
    [(3, 28, 6, 2, 4, 16), (3, 28, 6, 0, 16, 2), (1, 20, 5, 3, 2, 8), (2, 16, 1, 1, 3, 4)],
)
def test_class_networks_of_odd_sizes(heads, head_dim, side, start, channels, classes):
    torch.manual_seed(heads + side)
    weights = random_class_weights(heads, head_dim, side, channels, classes)
    network = network_from_weights(weights, Hints(code_classes=classes, in_context_start=start))
    assert network.config["num_heads"] == heads
    refiner = network.build()
    labels = torch.randint(classes, (3, channels, side, side), dtype=torch.int32)
    signal, names = torch.tensor([0.0, 0.31, 1.4]), torch.tensor([0, 7, 10])  # 1.4: finished samples go on growing
    with torch.no_grad():
        logits = refiner(labels[:, :, None], signal, ClassCondition(names, 10))
    for i in range(3):
        published = class_forward(weights, labels[i], float(signal[i]), int(names[i]), classes, start)
        torch.testing.assert_close(logits[i, :, 0], published.movedim(0, -1).float(), **CLOSE)


@pytest.mark.parametrize("attention", ["joint", "prefix"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "channels", "classes"), [(4, 4, 16, 8, 2), (4, 2, 16, 3, 16), (3, 1, 28, 2, 8)]
)
def test_text_networks_in_both_layouts_with_shared_keys(attention, heads, kv_heads, head_dim, channels, classes):
    torch.manual_seed(heads + kv_heads)
    weights = random_text_weights(heads, kv_heads, head_dim, channels, classes)
    network = network_from_weights(weights, Hints(attention=attention, code_classes=classes))
    assert (network.config["num_heads"], network.config["num_kv_heads"]) == (heads, kv_heads)
    assert network.config["depth"] == 4
    refiner = network.build()
    texts = [torch.randn(length, 12) for length in (5, 1, 9)]
    cases = [((1, 4, 6), 0.666, False), ((3, 4, 5), 0.75, False), ((2, 3, 3), 1.0, attention == "joint")]
    for number, (grid, ratio, is_given) in enumerate(cases):
        labels = torch.randint(classes, (1, channels, *grid), dtype=torch.int32)
        first = torch.randint(classes, (1, channels, 1, *grid[1:]), dtype=torch.int32) if is_given else None
        condition = TextCondition.of([texts[number]], texts[1], first)
        with torch.no_grad():
            logits = refiner(labels, torch.tensor([0.37]), refiner.prepare(condition))
        given = first[0] if first is not None else None
        published = text_forward(weights, labels[0], 0.37, texts[number], classes, attention, ratio, given)
        torch.testing.assert_close(logits[0], published.float(), **CLOSE)
