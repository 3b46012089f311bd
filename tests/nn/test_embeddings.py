"""Sinusoids of scalars and of places on a grid, against the published tables."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from genrefine.nn.embeddings import ScalarEmbedding, grid_sinusoid, sinusoid

GOLDEN = load_file(Path(__file__).parents[1] / "goldens/class_refiner_tables.safetensors")


def test_sinusoid_of_a_signal_is_the_published_one():
    torch.testing.assert_close(sinusoid(GOLDEN["t"], 256), GOLDEN["t_freq"], atol=1e-6, rtol=0)


def test_grid_table_is_the_published_one():
    torch.testing.assert_close(grid_sinusoid(8, 8, 64), GOLDEN["pos_embed.64.8"], atol=1e-6, rtol=0)
    torch.testing.assert_close(grid_sinusoid(16, 16, 768)[::7], GOLDEN["pos_embed.768.16"], atol=1e-6, rtol=0)


def test_grid_table_tells_columns_in_its_first_half_and_rows_in_its_second():
    table = grid_sinusoid(3, 5, 16).unflatten(0, (3, 5))
    assert torch.equal(table[0, :, :8], table[2, :, :8])
    assert torch.equal(table[:, 0, 8:], table[:, 4, 8:])
    assert table.flatten(0, 1).unique(dim=0).shape[0] == 15


def test_scalar_embedding_runs_in_the_dtype_that_it_is_told():
    embedding = ScalarEmbedding(8).to(torch.bfloat16)
    assert embedding(torch.tensor([0.0, 1.0]), torch.bfloat16).dtype == torch.bfloat16
