"""Sorted or selected rows are a view of the same tokens and behave like a copy."""

import numpy as np

from helpers.tiny import random_rows
from sealtune.data.encoded import Encoded
from sealtune.ranking.ngrams import hashed_ngrams


def copy(rows, indices):
    ids, source = ([strings[i] for i in indices] for strings in (rows.ids, rows.source))
    return Encoded.join(ids, source, [rows.row(i) for i in indices])


def test_a_view_equals_a_copy():
    rows, indices = random_rows(20), [7, 3, 3, 19, 0]
    view, plain = rows.take(indices), copy(rows, indices)
    assert view.tokens is rows.tokens
    assert view.ids == plain.ids == [f"row-{i:03d}" for i in indices]
    np.testing.assert_array_equal(view.lengths, plain.lengths)
    np.testing.assert_array_equal(view.lengths_of(np.array([4, 1])), plain.lengths_of(np.array([4, 1])))
    for i in range(len(indices)):
        np.testing.assert_array_equal(view.row(i)[0], plain.row(i)[0])
        np.testing.assert_array_equal(view.row(i)[1], plain.row(i)[1])
    for a, b in zip(hashed_ngrams(view, 1, 4), hashed_ngrams(plain, 1, 4), strict=True):
        np.testing.assert_array_equal(a, b)


def test_views_of_views_and_their_concatenation():
    rows = random_rows(20)
    twice = rows.take(np.arange(20)[::-1]).take([2, 5])
    assert twice.ids == ["row-017", "row-014"]
    np.testing.assert_array_equal(twice.row(1)[0], rows.row(14)[0])
    both = twice.extend(rows.isin(["row-001"]))
    assert both.ids == ["row-017", "row-014", "row-001"]
    assert both.order is None
    np.testing.assert_array_equal(both.row(2)[0], rows.row(1)[0])
