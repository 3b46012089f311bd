"""Quantized loading: with `pip install torchao` the whole of it, which CI does without (everything imports it)."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import NETWORKS, REFINERS, answer

from genrefine import GenrefineError
from genrefine.refiner.adapter import _without_head


@pytest.mark.parametrize("kind", REFINERS)
@pytest.mark.filterwarnings("ignore")  # torchao's own
def test_a_refiner_is_quantized_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization", exc_type=ImportError)
    from diffusers import TorchAoConfig

    make, network_class = NETWORKS[kind]
    make().save_pretrained(tmp_path / "plain")
    config: Any = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    refiner = network_class.from_pretrained(tmp_path / "plain", quantization_config=config, torch_dtype=torch.float32)
    assert type(refiner.blocks[0].mlp.output.weight) is not torch.nn.Parameter
    assert type(refiner.head.linear.weight) is torch.nn.Parameter
    made, expected = answer(kind, refiner), answer(kind, make())
    assert 0 < (made - expected).abs().mean() < 0.05 * expected.abs().mean()
    refiner.save_pretrained(tmp_path / "quantized")
    again = network_class.from_pretrained(tmp_path / "quantized", torch_dtype=torch.float32)
    assert torch.equal(answer(kind, again), made)


@pytest.mark.parametrize("kind", REFINERS)
def test_an_error_while_loading_leaves_the_default_dtype_alone(kind: str, tmp_path: Path) -> None:
    make, network_class = NETWORKS[kind]
    make().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_heads": 5}))
    with pytest.raises(GenrefineError, match="num_heads"):
        network_class.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert torch.get_default_dtype() == torch.float32


def test_a_text_refiner_takes_the_key_of_a_quantized_one(tmp_path: Path) -> None:
    make, network_class = NETWORKS["text, joint"]
    config = {**make().config, "quantization_config": {"quant_method": "torchao"}}
    assert isinstance(network_class.from_config(config), network_class)
    with pytest.raises(GenrefineError, match="got quantisation_config"):
        network_class.from_config({**make().config, "quantisation_config": {}})


@pytest.mark.parametrize("name", ["modules_to_not_convert", "llm_int8_skip_modules"])
@pytest.mark.parametrize("named", [None, ["head"], ["blocks.0"]])
def test_the_head_is_passed_over_under_every_name_and_what_is_given_stays(name: str, named: list[str] | None) -> None:
    given = SimpleNamespace(**{name: named})
    changed = getattr(_without_head(given), name)
    assert {"head", "linear", *(named or [])} == set(changed)
    assert getattr(given, name) == named
