"""Rotary positions: the published tables and example, and what a rotation must not change."""

from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

from genrefine.nn.rope import FixedRotation, FixedTable, grid_angles, rotate_pairs

GOLDEN = load_file(Path(__file__).parents[1] / "goldens/class_refiner_tables.safetensors")


@pytest.mark.parametrize(("head_dim", "side", "in_context"), [(16, 8, 8), (104, 16, 32)])
def test_angles_are_those_of_the_published_tables(head_dim, side, in_context):
    """The published table repeats each angle for both members of a pair; every third row was kept."""
    angles = torch.cat([torch.zeros(in_context, head_dim // 2), grid_angles(side, side, head_dim)])
    for name, ours in (("cos", angles.cos()), ("sin", angles.sin())):
        stored = GOLDEN[f"rope.{head_dim}.{side}.{in_context}.{name}"]
        torch.testing.assert_close(ours.repeat_interleave(2, dim=1)[::3], stored, atol=1e-5, rtol=0)


def test_rotation_is_the_published_one_up_to_the_order_of_channels():
    x, cos, sin = GOLDEN["rot.in"], GOLDEN["rot.cos"][:, ::2], GOLDEN["rot.sin"][:, ::2]
    turned = rearrange(rotate_pairs(x, (cos, sin)), "... (two pairs) -> ... (pairs two)", two=2)
    torch.testing.assert_close(turned, GOLDEN["rot.out"], atol=1e-6, rtol=0)


def test_scores_depend_only_on_the_distance_in_rows_and_columns():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, generator=generator).unbind()
    angles = grid_angles(5, 7, 8)
    rotation = angles.cos(), angles.sin()
    query, key = (rotate_pairs(x.expand(35, 8), rotation) for x in (query, key))
    scores = rearrange(query @ key.T, "(h w) (y x) -> h w y x", h=5, y=5)
    for rows, columns in ((1, 0), (0, 2), (3, 1)):
        pairs = [scores[y, x, y + rows, x + columns] for y in range(5 - rows) for x in range(7 - columns)]
        torch.testing.assert_close(torch.stack(pairs), pairs[0].expand(len(pairs)), atol=1e-5, rtol=1e-5)


def test_rotation_keeps_the_length_of_every_head():
    x = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    angles = grid_angles(3, 4, 20)
    torch.testing.assert_close(rotate_pairs(x, (angles.cos(), angles.sin())).norm(dim=-1), x.norm(dim=-1))


def test_angle_zero_only_reorders_channels():
    x = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    rotated = rotate_pairs(x, (torch.ones(1, 3), torch.zeros(1, 3)))
    assert torch.equal(rotated, x[..., [0, 2, 4, 1, 3, 5]])


def test_fixed_tables_stay_float32_and_real_in_a_module_that_is_cast_or_built_on_meta():
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rotation = FixedRotation(grid_angles(2, 3, 8))

    plain = Holder().rotation.on(torch.device("cpu"))
    with torch.device("meta"):
        built_on_meta = Holder()
    for module in (Holder().to(torch.bfloat16), Holder().double(), built_on_meta):
        for ours, expected in zip(module.rotation.on(torch.device("cpu")), plain, strict=True):
            assert ours.dtype == torch.float32
            assert torch.equal(ours, expected)
        assert not module.state_dict()


def test_a_fixed_table_is_copied_to_a_device_once():
    table, meta = FixedTable(torch.ones(2, 2)), torch.device("meta")
    assert table.on(meta) is table.on(meta)
    assert table.on(meta).is_meta
