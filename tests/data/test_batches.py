import numpy as np
import pytest

from sealtune.data.batches import Batches
from sealtune.data.encoded import Encoded


def rows_of(lengths):
    parts = [(np.ones(n, np.int32), np.arange(n) >= n // 2) for n in lengths]
    return Encoded.join([f"row-{i}" for i in range(len(lengths))], ["made"] * len(lengths), parts)


def skewed(n, seed=0):
    """Row lengths with a few very long rows, as in web data; at most 1024 tokens."""
    return rows_of(np.clip(np.random.default_rng(seed).lognormal(5, 1, n), 8, 1024).astype(int))


@pytest.mark.parametrize("size", [4, 8, 16])
def test_there_is_little_padding_even_if_lengths_vary_widely(size):
    rows = skewed(6000)
    batches = Batches(rows, size, seed=0)
    padded = 0
    for step in range(batches.per_epoch):
        lengths = rows.lengths_of(batches.at(step).rows.numpy())
        padded += lengths.max() * len(lengths)
    assert 1 - rows.lengths.sum() / padded < 0.05


@pytest.mark.parametrize("n", [1, 7, 16, 37])
def test_the_order_of_an_epoch_has_the_same_batches_with_the_smaller_one_last(n):
    batches = Batches(skewed(n), 8, seed=3)
    for epoch in range(2):
        order = batches.order(epoch).tolist()
        assert sorted(order) == list(range(n))
        batches_of_epoch = [batches.at(epoch * batches.per_epoch + i).rows.tolist() for i in range(batches.per_epoch)]
        assert [order[i : i + 8] for i in range(0, n, 8)] == sorted(batches_of_epoch, key=len, reverse=True)
    assert n < 8 or batches.order(0).tolist() != batches.order(1).tolist()
