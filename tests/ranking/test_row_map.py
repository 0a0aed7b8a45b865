import numpy as np
import torch

from sealtune.ranking import row_map


def clusters(n=60, width=20):
    """Rows of two kinds."""
    rows = np.random.default_rng(0).normal(size=(n, width))
    rows[: n // 2, :5] += 6
    return torch.from_numpy(rows).float()


def test_rows_that_are_alike_are_neighbours():
    places = row_map.row_map(clusters(), seed=0)
    one, other = places[:30].mean(0), places[30:].mean(0)
    assert places.shape == (60, 2)
    assert np.linalg.norm(one - other) > 3 * places[:30].std(0).max()


def test_the_axes_come_from_a_sample_and_all_rows_are_placed(monkeypatch):
    all_rows = row_map.row_map(clusters(), seed=0)
    monkeypatch.setattr(row_map, "FITTED", 40)
    sampled = row_map.row_map(clusters(), seed=0)
    assert abs(np.corrcoef(all_rows[:, 0], sampled[:, 0])[0, 1]) > 0.95


def test_too_few_rows_have_no_map():
    assert row_map.row_map(clusters(2), seed=0) is None
