"""Rotary positions in three dimensions: the published tables, and sizes that were never published."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from genrefine.nn.rope import rotate_pairs
from genrefine.nn.rope3d import axis_pairs, rotation_at
from genrefine.refiner.positions import (
    FIRST_FRAME_POSITION,
    SIGNAL_POSITION,
    grid_positions,
    line_positions,
    stretched_positions,
)
from genrefine.resolutions import published_ratio

GOLDENS = Path(__file__).parents[1] / "goldens"
TABLES = load_file(GOLDENS / "rope3d_tables.safetensors")
INDICES = json.loads(gzip.decompress((GOLDENS / "rope3d_indices.json.gz").read_bytes()))
sizes = st.integers(1, 120)


@pytest.mark.parametrize("name", INDICES)
def test_rows_and_columns_of_every_published_size_are_the_published_ones(name):
    height, width = INDICES[name]["grid"]
    positions = grid_positions(1, height, width).view(height, width, 3)
    assert positions[:, 0, 1].tolist() == INDICES[name]["h"]
    assert positions[0, :, 2].tolist() == INDICES[name]["w"]
    assert published_ratio(height, width) == float(name.split("|")[0])


@pytest.mark.parametrize(("head_dim", "step"), [(16, 1), (128, 5)])
def test_tables_are_the_published_ones(head_dim, step):
    """Larger heads keep every fifth position; the text table turns only the frame pairs."""
    frame, row, column = axis_pairs(head_dim)
    ranges = {
        "text": (0, 600, slice(0, head_dim // 2), 0),
        "frames": (FIRST_FRAME_POSITION, 21, slice(0, frame), 0),
        "height": (0, 225, slice(frame, frame + row), 1),
        "width": (0, 225, slice(frame + row, frame + row + column), 2),
    }
    for name, (first, count, pairs, axis) in ranges.items():
        stored = TABLES.get(f"hd{head_dim}.freqs_{name}")
        if stored is None:
            continue
        positions = torch.zeros(count, 3, dtype=torch.int32)
        positions[:, axis] = first + torch.arange(count, dtype=torch.int32)
        for ours, published in zip(rotation_at(positions[::step], head_dim), stored, strict=True):
            assert torch.equal(ours[:, pairs], published), name


@given(st.integers(1, 5), sizes, sizes)
@settings(deadline=None)
def test_positions_of_any_grid_are_distinct_and_in_raster_order(frames, height, width):
    positions = grid_positions(frames, height, width)
    assert positions.shape == (frames * height * width, 3)
    if max(height, width) <= 60:  # the virtual grid is finer than these
        key = positions.long() @ torch.tensor([10**6, 10**3, 1])
        assert (key.diff() > 0).all()


@given(st.integers(2, 100))
@settings(deadline=None)
def test_small_and_large_grids_of_one_shape_span_the_same_rows(height):
    spread = stretched_positions(height, 129)
    assert spread[0] == 0
    assert abs(int(spread[-1]) - 129 * (height - 1) / height) <= 0.5


def test_text_the_signal_and_frames_stand_apart_on_the_frame_axis():
    text, signal = line_positions(0, 512), line_positions(SIGNAL_POSITION, 1)
    clip = grid_positions(3, 2, 2, first_frame=1)
    assert text[:, 0].max() < signal[0, 0] < clip[:, 0].min()
    assert clip[:, 0].unique().tolist() == [601, 602, 603]
    assert text[:, 1:].abs().max() == signal[:, 1:].abs().max() == 0


def test_scores_depend_only_on_distances():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 24, generator=generator).unbind()
    positions = torch.tensor([[600, 3, 4], [602, 8, 5], [610, 13, 14], [612, 18, 15]], dtype=torch.int32)
    rotation = rotation_at(positions, 24)
    query, key = (rotate_pairs(x.expand(4, 24), rotation) for x in (query, key))
    torch.testing.assert_close(query[0] @ key[1], query[2] @ key[3], atol=1e-4, rtol=1e-4)


def test_pairs_left_over_go_to_the_columns():
    assert axis_pairs(128) == (21, 21, 22)
    assert axis_pairs(16) == (2, 2, 4)
    assert axis_pairs(6) == (1, 1, 1)
