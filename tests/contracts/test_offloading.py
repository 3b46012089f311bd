"""Weights may lie elsewhere between uses: accelerate's offloading, diffusers' groups, storage in eight bits.

On one device nothing is faster for it, but whatever reads a weight outside its module's forward pass is found: it meets
an empty tensor or one in the dtype of storage.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from networks import NETWORKS, answer

from tiny_models import tiny_pipeline, tiny_text_pipeline

CPU = torch.device("cpu")


def by_accelerate(network: Any, _: Path) -> None:
    accelerate.cpu_offload(network, execution_device=CPU)


def by_accelerate_to_disk(network: Any, folder: Path) -> None:
    accelerate.disk_offload(network, str(folder), execution_device=CPU)


def by_leaf(network: Any, _: Path) -> None:
    network.enable_group_offload(onload_device=CPU, offload_type="leaf_level")


def by_leaf_to_disk(network: Any, folder: Path) -> None:
    network.enable_group_offload(onload_device=CPU, offload_type="leaf_level", offload_to_disk_path=str(folder))


def by_block(network: Any, _: Path) -> None:
    network.enable_group_offload(onload_device=CPU, offload_type="block_level", num_blocks_per_group=1)


def by_block_to_disk(network: Any, folder: Path) -> None:
    options = {"offload_type": "block_level", "num_blocks_per_group": 1}
    network.enable_group_offload(onload_device=CPU, offload_to_disk_path=str(folder), **options)


WAYS = [by_accelerate, by_accelerate_to_disk, by_leaf, by_leaf_to_disk, by_block, by_block_to_disk]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_offloaded_networks_say_the_same(kind: str, way: Callable[[Any, Path], None], tmp_path: Path) -> None:
    make, _ = NETWORKS[kind]
    expected, network = answer(kind, make()), make()
    way(network, tmp_path)
    for _ in range(2):  # weights leave again after the first time
        assert torch.equal(answer(kind, network), expected)


@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules:UserWarning")  # a weight
@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_are_spread_by_accelerate(kind: str, tmp_path: Path) -> None:
    make, network_class = NETWORKS[kind]
    make().save_pretrained(tmp_path / "network")
    expected = answer(kind, make())
    whole = network_class.from_pretrained(tmp_path / "network", device_map="auto")
    assert torch.equal(answer(kind, whole), expected)
    half = sum(weight.numel() * weight.element_size() for weight in make().parameters()) // 2
    room = {"cpu": half}  # so that the rest goes to the disk
    options = {"max_memory": room, "offload_folder": str(tmp_path / "rest")}
    spread = network_class.from_pretrained(tmp_path / "network", device_map="auto", **options)
    assert "disk" in spread.hf_device_map.values()
    assert torch.equal(answer(kind, spread), expected)


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_stored_in_eight_bits_are_used_in_the_dtype_of_computation(kind: str) -> None:
    make, _ = NETWORKS[kind]
    network = make()
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {name for name, weight in network.named_parameters() if weight.dtype == torch.float8_e4m3fn}
    assert len(stored) > 8
    assert not [name for name in stored if "head" in name or "embedding" in name or "norm" in name]
    # The result is that of the same weights, rounded once.
    rounded = make()
    with torch.no_grad():
        for name, weight in rounded.named_parameters():
            if name in stored:
                weight.copy_(weight.to(torch.float8_e4m3fn))
    for _ in range(2):
        assert torch.equal(answer(kind, network), answer(kind, rounded))
    assert not torch.equal(answer(kind, network), answer(kind, make()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["class", "text", "prefix"])
def test_offloaded_pipelines_make_the_same_pictures(
    kind: str, way: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    def make() -> Any:
        return (
            tiny_pipeline()
            if kind == "class"
            else tiny_text_pipeline(attention="prefix" if kind == "prefix" else "joint")
        )

    what = "flags/noto" if kind == "class" else "a red heart"
    expected, pipe = make()([what, what], seed=3, adaptive=True), make()
    for name in ("refiner", "visual_tokenizer"):
        way(getattr(pipe, name), tmp_path / name)
    if kind != "class" and way in (by_accelerate, by_accelerate_to_disk):
        way(pipe.text_encoder, tmp_path / "text_encoder")
    made = pipe([what, what], seed=3, adaptive=True)
    assert torch.equal(made.codes, expected.codes)
    assert [one.tobytes() for one in made.images] == [one.tobytes() for one in expected.images]
