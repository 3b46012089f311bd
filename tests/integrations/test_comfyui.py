"""The ComfyUI nodes: their functions on tiny models, and the nodes on a stand-in of ComfyUI's V3 interface.

ComfyUI itself is not to be had here. The stand-in keeps what nodes declare and return, so that the tests see that
inputs, parameters and outputs belong together.
"""

import asyncio
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from genrefine.pipelines import change_map
from tiny_models import tiny_pipeline, tiny_text_pipeline

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


class Declared:
    """An input or output, as it was declared."""

    def __init__(self, name=None, **given):
        self.id, self.given = name, given


def kind():
    return SimpleNamespace(Input=Declared, Output=Declared)


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def pack(told):
    api, latest = ModuleType("comfy_api"), ModuleType("comfy_api.latest")
    latest.ComfyExtension = object
    execution = SimpleNamespace(set_progress=lambda value, most, preview_image=None: told.append((value, most)))
    latest.ComfyAPISync = lambda: SimpleNamespace(execution=execution)
    kinds = {name: kind() for name in ("Int", "Float", "Boolean", "String", "Combo", "Image", "Mask")}
    latest.io = SimpleNamespace(
        **kinds,
        Custom=lambda name: kind(),
        ComfyNode=object,
        Schema=SimpleNamespace,
        NodeOutput=lambda *values: values,
    )
    before = {name: sys.modules.get(name) for name in ("comfy_api", "comfy_api.latest")}
    sys.modules |= {"comfy_api": api, "comfy_api.latest": latest}
    spec = importlib.util.spec_from_file_location(
        "comfyui_pack", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_pack"] = loaded
    spec.loader.exec_module(loaded)
    yield loaded
    for name in ("comfyui_pack", "comfyui_pack.nodes", "comfyui_pack.functions"):
        sys.modules.pop(name, None)
    for name, module in before.items():
        if module is None:
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def nodes(pack):
    extension = asyncio.run(pack.comfy_entrypoint())
    found = asyncio.run(extension.get_node_list())
    return {node.define_schema().node_id.removeprefix("Genrefine"): node for node in found}


@pytest.fixture(scope="module")
def text():
    return tiny_text_pipeline()


SAMPLING = {"seed": 3, "adaptive": False, "steps": 3, "guidance": 0.0, "temperature": 0.0}


def test_inputs_are_the_parameters_of_every_node(nodes):
    assert sorted(nodes) == ["Edit", "FindChange", "Load", "LookInside", "Make"]
    for node in nodes.values():
        schema = node.define_schema()
        names = [one.id for one in schema.inputs]
        parameters = inspect.signature(node.execute).parameters
        assert sorted(names) == sorted(parameters)
        optional = {one.id for one in schema.inputs if one.given.get("optional")}
        assert {name for name, one in parameters.items() if one.default is not inspect.Parameter.empty} == optional


def test_made_pictures_are_the_pipelines_own(nodes, text, told):
    told.clear()
    images, how = nodes["Make"].execute(text, "dog", 2, 1, **SAMPLING)
    own = text("dog", seed=3, num_images_per_prompt=2, num_inference_steps=3)
    assert images.shape == (2, 16, 16, 3)
    assert len(nodes["Make"].define_schema().outputs) == 2
    levels = (images * 255).round().to(torch.uint8)
    assert [bytes(one.flatten().tolist()) for one in levels] == [image.tobytes() for image in own.images]
    assert how == f"seeds [3, 4], [3, 3] steps, {own.num_evaluations} evaluations"
    assert told == [(1, 3), (2, 3), (3, 3)]
    clip, _ = nodes["Make"].execute(text, "dog", 7, 5, **SAMPLING)
    assert clip.shape == (5, 16, 16, 3)
    settings = {**SAMPLING, "adaptive": True, "guidance": 1.5, "temperature": 0.8}
    guided, _ = nodes["Make"].execute(text, "dog", 1, 1, **settings)
    same = text("dog", seed=3, adaptive=True, guidance_scale=1.5, temperature=0.8).images[0]
    assert bytes((guided[0] * 255).round().to(torch.uint8).flatten().tolist()) == same.tobytes()


def test_edits_keep_what_the_mask_leaves_and_come_back_at_their_size(nodes, text):
    images = torch.rand(2, 20, 30, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 20, 30)
    mask[:, :, :10] = 1
    margins = {"left": 0, "top": 0, "right": 0, "bottom": 0}
    (edited,) = nodes["Edit"].execute(text, images, "dog", 1.0, **margins, **SAMPLING, mask=mask)
    assert edited.shape == images.shape
    assert (edited - images)[:, :, 20:].abs().max() <= 0.5 / 255 + 1e-6
    assert (edited - images)[:, :, :8].abs().mean() > 0.05
    (grown,) = nodes["Edit"].execute(text, images, "dog", 1.0, 10, 0, 0, 4, **SAMPLING)
    assert grown.shape == (2, 24, 40, 3)
    (kept,) = nodes["Edit"].execute(tiny_pipeline(), images, "flags/noto", 0.0, **margins, **SAMPLING)
    assert kept.shape == images.shape


def test_what_a_prompt_would_change_is_a_mask(nodes, text):
    images = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    mask, shown = nodes["FindChange"].execute(text, images, "dog", "pizza", 0.0)
    picture = Image.fromarray((images[0] * 255).round().to(torch.uint8).numpy())
    own = change_map(text, picture, "dog", "pizza").mask()
    assert (mask.shape, shown.shape) == ((1, 16, 16), (1, 16, 16, 3))
    assert bytes((mask[0] * 255).to(torch.uint8).flatten().tolist()) == own.tobytes()
    quarter, _ = nodes["FindChange"].execute(text, images, "", "pizza", 0.25)
    assert 0 < quarter.mean() < 1


def test_every_step_is_looked_at(nodes, text, told):
    told.clear()
    views = nodes["LookInside"].execute(text, "dog", **SAMPLING)
    assert [view.shape for view in views] == [(3, 320, 320, 3)] * 3
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_model_is_loaded_once(nodes, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    (first,) = nodes["Load"].execute(str(tmp_path / "tiny"), "cpu", "float32")
    (again,) = nodes["Load"].execute(str(tmp_path / "tiny"), "cpu", "float32")
    assert first is again
    assert first("flags/noto", seed=1, num_inference_steps=1).images
