"""Adapters in the layouts of peft and of diffusers, by the words of diffusers' pipelines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import answer
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from genrefine import GenrefineError
from genrefine.refiner.adapter import lora_config
from genrefine.refiner.adapter_file import SINGLE_FILE
from tiny_models import tiny_pipeline, tiny_text_pipeline

KINDS = {"class": tiny_pipeline, "text, joint": tiny_text_pipeline}
LAYERS = ["blocks.0.attention.output", "blocks.1.mlp.output"]


def adapted(make: Callable[[], Any], scale: float = 1.0, **changes: Any) -> Any:
    """Return a pipeline with an adapter that has an effect."""
    pipe = make()
    config = lora_config(pipe.refiner, rank=2, scale=scale)
    for name, value in changes.items():
        setattr(config, name, value)
    pipe.refiner.add_adapter(config, adapter_name="default")
    draw = torch.Generator().manual_seed(0)
    for name, weight in pipe.refiner.named_parameters():
        if ".lora_" in name:
            weight.data = torch.randn(weight.shape, generator=draw) * 0.3
    return pipe


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sources(pipe: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Write an adapter in every way, and return how each is read."""
    weights = pipe.refiner.adapter_weights()
    pipe.refiner.save_lora_adapter(folder / "peft")
    pipe.refiner.save_lora_adapter(folder / "single", weight_name=SINGLE_FILE)
    config = pipe.refiner.peft_config["default"].to_dict()
    type(pipe).save_lora_weights(folder / "weights", weights, refiner_lora_adapter_metadata=config)
    type(pipe).save_lora_weights(
        folder / "named", weights, weight_name="a.safetensors", refiner_lora_adapter_metadata=config
    )
    save_file(weights, folder / "bare.safetensors")
    return {
        "a folder of peft's": {"source": folder / "peft"},
        "a file of diffusers' layout": {"source": folder / "single" / SINGLE_FILE},
        "the folder of one": {"source": folder / "single"},
        "what save_lora_weights wrote": {"source": folder / "weights"},
        "a file named": {"source": folder / "named", "weight_name": "a.safetensors"},
        "a state dict": {"source": {f"refiner.{name}": weight for name, weight in weights.items()}},
        "a state dict of peft": {"source": get_peft_model_state_dict(pipe.refiner), "prefix": None},
        "without a prefix": {"source": folder / "bare.safetensors", "prefix": None},
        "with another prefix": {"source": {f"x.{name}": weight for name, weight in weights.items()}, "prefix": "x"},
    }


def test_an_adapter_is_read_from_everything_that_diffusers_reads(kind: str, tmp_path: Path) -> None:
    trained = adapted(KINDS[kind])
    expected = answer(kind, trained.refiner)
    plain = answer(kind, KINDS[kind]().refiner)
    assert not torch.allclose(expected, plain)
    for way, given in sources(trained, tmp_path).items():
        pipe = KINDS[kind]()
        pipe.load_lora_weights(**given)
        torch.testing.assert_close(answer(kind, pipe.refiner), expected, msg=way)
        pipe.unload_lora_weights()
        assert torch.equal(answer(kind, pipe.refiner), plain), way


def test_a_scale_comes_with_the_metadata_and_is_one_without(kind: str, tmp_path: Path) -> None:
    trained = adapted(KINDS[kind], scale=3.0)
    weights, config = trained.refiner.adapter_weights(), trained.refiner.peft_config["default"].to_dict()
    for metadata, scale in ((config, 3.0), (None, 1.0)):
        type(trained).save_lora_weights(tmp_path, weights, refiner_lora_adapter_metadata=metadata)
        pipe = KINDS[kind]()
        pipe.load_lora_weights(tmp_path)
        torch.testing.assert_close(answer(kind, pipe.refiner), answer(kind, adapted(KINDS[kind], scale=scale).refiner))


def test_fusing_takes_the_words_of_diffusers(kind: str, tmp_path: Path) -> None:
    trained = adapted(KINDS[kind])
    plain, full = answer(kind, KINDS[kind]().refiner), answer(kind, trained.refiner)
    trained.fuse_lora(components=["refiner"], lora_scale=1.0, safe_fusing=True)
    assert trained.num_fused_loras == 1
    torch.testing.assert_close(answer(kind, trained.refiner), full, atol=1e-5, rtol=1e-4)
    trained.unfuse_lora(components=["refiner"])
    trained.unload_lora_weights()
    torch.testing.assert_close(answer(kind, trained.refiner), plain, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="text_encoder is not found"):
        trained.fuse_lora(components=["text_encoder"])
    broken = adapted(KINDS[kind])
    for name, weight in broken.refiner.named_parameters():
        if name.endswith("lora_B.default.weight"):
            weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        broken.fuse_lora(safe_fusing=True)


def test_what_diffusers_writes_is_read(kind: str, tmp_path: Path) -> None:
    """`LoraBaseMixin._save_lora_weights` is what every pipeline of diffusers calls."""
    trained = adapted(KINDS[kind])
    weights = trained.pack_weights(get_peft_model_state_dict(trained.refiner), "refiner")
    trained.write_lora_layers(weights, str(tmp_path), True, None, None, True)
    pipe = KINDS[kind]()
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(answer(kind, pipe.refiner), answer(kind, trained.refiner))


def test_what_we_write_is_read_by_diffusers(kind: str, tmp_path: Path) -> None:
    """By `PeftAdapterMixin.load_lora_adapter` itself, which ours replaces; class tables are nothing that it adapts."""
    from diffusers.loaders.peft import PeftAdapterMixin

    pipe = KINDS[kind]()
    pipe.refiner.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=LAYERS), adapter_name="default")
    draw = torch.Generator().manual_seed(0)
    for name, weight in pipe.refiner.named_parameters():
        if ".lora_" in name:
            weight.data = torch.randn(weight.shape, generator=draw)
    pipe.refiner.save_lora_adapter(tmp_path, weight_name=SINGLE_FILE)
    other = KINDS[kind]()
    other.refiner._hf_peft_config_loaded = False
    PeftAdapterMixin.load_lora_adapter(other.refiner, str(tmp_path), prefix="refiner", use_safetensors=True)
    torch.testing.assert_close(answer(kind, other.refiner), answer(kind, pipe.refiner))


def test_what_could_not_be_loaded_again_is_refused_when_it_is_saved(kind: str, tmp_path: Path) -> None:
    trained = adapted(KINDS[kind], use_dora=True, target_modules=LAYERS)
    for options in ({}, {"weight_name": SINGLE_FILE}):
        with pytest.raises(GenrefineError, match="the adapter to save sets 'use_dora' to True; only plain LoRA"):
            trained.refiner.save_lora_adapter(tmp_path / "adapter", **options)
    assert not (tmp_path / "adapter").exists()
    weights = adapted(KINDS[kind]).refiner.adapter_weights()
    name = next(iter(weights))
    with pytest.raises(GenrefineError, match="unknown weight 'scale'"):
        type(trained).save_lora_weights(tmp_path, {**weights, "scale": torch.ones(1)})
    with pytest.raises(GenrefineError, match="must hold factors of one rank"):
        type(trained).save_lora_weights(tmp_path, {**weights, name: torch.ones(9, 9)})
    with pytest.raises(GenrefineError, match="safetensors only"):
        type(trained).save_lora_weights(tmp_path, weights, safe_serialization=False)
    type(trained).save_lora_weights(tmp_path / "no", weights, is_main_process=False)
    assert not (tmp_path / "no").exists()


def test_a_file_that_is_none_ends_in_one_line(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    weights = adapted(tiny_pipeline).refiner.adapter_weights()
    save_file({f"refiner.{name}": weight for name, weight in weights.items()}, tmp_path / "good.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:-1])
    metadata = {"lora_adapter_metadata": '{"refiner.r": 5, "refiner.lora_alpha": 5, "refiner.peft_type": "LORA"}'}
    save_file(load_file(tmp_path / "good.safetensors"), tmp_path / "other_rank.safetensors", metadata)
    save_file(
        load_file(tmp_path / "good.safetensors"), tmp_path / "no_json.safetensors", {"lora_adapter_metadata": "{"}
    )
    for source, message in (
        (tmp_path / "cut.safetensors", "truncated or damaged"),
        (tmp_path / "other_rank.safetensors", "factors of rank 5, as it says; got 2"),
        (tmp_path / "no_json.safetensors", "not readable JSON"),
        ({"transformer.blocks.0.lora_A.weight": torch.ones(2, 2)}, "unknown weight 'transformer.blocks.0.lora_A"),
        ({}, "factors of one rank; got none"),
        ({**{f"refiner.{n}": w for n, w in weights.items()}, 3: torch.ones(1)}, "unknown weight '3'"),
        (tmp_path / "nowhere", "no adapter folder at|no adapter at"),
    ):
        with pytest.raises(GenrefineError, match=message):
            pipe.load_lora_weights(source)
    assert not pipe.refiner.adapters
