"""N-grams of response tokens."""

from collections import Counter

import numpy as np
import pytest

from helpers.ngram_rows import ngram_lists
from helpers.tiny import random_rows
from sealtune.data.encoded import Encoded
from sealtune.ranking.ngrams import blocks, hashed_ngrams


def test_ngrams_are_those_of_response_tokens_and_cross_neither_rows_nor_turns():
    turns = (np.array([5, 6, 7, 6, 7, 9]), np.array([0, 1, 1, 0, 1, 1], bool))
    rows = Encoded.join(["a", "b", "c"], ["made"] * 3, [turns, turns, (np.array([7, 7]), np.array([1, 1], bool))])
    owner, hashes = hashed_ngrams(rows, 0, 3)
    for i, expected in enumerate(ngram_lists(rows)):
        counts = Counter(hashes[owner == i].tolist())
        assert sorted(counts.values()) == sorted(Counter(expected).values())
    assert len(set(hashes.tolist())) == len({gram for own in ngram_lists(rows) for gram in own})
    again = hashed_ngrams(rows, 1, 3)
    assert np.array_equal(again[1][again[0] == 0], hashes[owner == 1])


@pytest.mark.parametrize("size", [1, 7, 40, 100])
def test_blocks_of_any_size_give_the_same_ngrams(size):
    rows = random_rows(40)
    owner, hashes = hashed_ngrams(rows, 0, 40)
    for start, stop in blocks(rows, size):
        own_owner, own_hashes = hashed_ngrams(rows, start, stop)
        for i in range(start, stop):
            assert np.array_equal(np.sort(own_hashes[own_owner == i - start]), np.sort(hashes[owner == i]))
    assert [i for start, stop in blocks(rows, size) for i in range(start, stop)] == list(range(40))
