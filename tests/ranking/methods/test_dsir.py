"""DSIR: the formula, and what must not change a score."""

import math
from collections import Counter

import numpy as np
import pytest

from helpers.ngram_rows import OTHER_WORDS, SAFE_WORDS, job_without_model, ngram_lists, rows_of, with_other_prompts
from helpers.tiny import random_rows
from sealtune.data.encoded import Encoded
from sealtune.ranking import methods
from sealtune.ranking.methods import dsir
from sealtune.ranking.ngrams import hashed_ngrams


def scores(candidates, safe):
    return methods.rank(job_without_model(candidates, safe)).score


def test_rows_with_words_of_the_safe_set_rank_first():
    like, unlike = rows_of(60, SAFE_WORDS, 0, "like"), rows_of(60, OTHER_WORDS, 1, "unlike")
    found = scores(like.extend(unlike), rows_of(40, SAFE_WORDS, 2, "safe"))
    assert (found[:60, None] > found[60:]).mean() > 0.99


def test_prompts_do_not_count():
    safe = rows_of(40, SAFE_WORDS, 2, "safe")
    one, other = with_other_prompts()
    assert np.array_equal(scores(one, safe), scores(other, safe))


def test_the_score_is_the_mean_log_ratio():
    rows, safe = random_rows(30), random_rows(12, 1, "safe")
    bucket = {}
    for part in (rows, safe):
        owner, hashes = hashed_ngrams(part, 0, len(part))
        for i, grams in enumerate(ngram_lists(part)):
            bucket |= dict(zip(grams, (hashes[owner == i] % np.uint64(dsir.BUCKETS)).tolist(), strict=True))

    def shares(part):
        counts = Counter(bucket[gram] for grams in ngram_lists(part) for gram in grams)
        total = counts.total() + dsir.BUCKETS
        return lambda gram: (counts[bucket[gram]] + 1) / total

    target, raw = shares(safe), shares(rows)
    expected = [np.mean([math.log(target(g) / raw(g)) for g in grams]) for grams in ngram_lists(rows)]
    assert scores(rows, safe) == pytest.approx(expected)


def test_length_alone_does_not_move_a_row():
    parts = [(np.tile(np.arange(3, 9), k), np.ones(6 * k, bool)) for k in (5, 50)]
    rows = Encoded.join(["short", "long"], ["made"] * 2, parts).extend(random_rows(50))
    short, long, *rest = scores(rows, rows_of(40, SAFE_WORDS, 2, "safe"))
    assert abs(short - long) < 0.1 * np.std(rest)


def test_a_row_without_response_tokens_has_a_finite_score():
    empty = Encoded.join(["empty"], ["made"], [(np.arange(3, 9), np.zeros(6, bool))])
    assert np.isfinite(scores(random_rows(9).extend(empty), random_rows(5, 1, "safe"))).all()
