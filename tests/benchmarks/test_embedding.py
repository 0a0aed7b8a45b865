"""TF-IDF nearness: cosines, and what must not change a score."""

import math
from collections import Counter

import numpy as np
import pytest

from benchmarks.baselines import embedding
from helpers.ngram_rows import OTHER_WORDS, SAFE_WORDS, job_without_model, ngram_lists, rows_of, with_other_prompts
from helpers.tiny import random_rows
from sealtune.data.encoded import Encoded


def scores(candidates, safe, **options):
    return embedding.rank(job_without_model(candidates, safe, "embedding"), **options).score


def test_rows_with_words_of_the_safe_set_rank_first():
    like, unlike = rows_of(60, SAFE_WORDS, 0, "like"), rows_of(60, OTHER_WORDS, 1, "unlike")
    found = scores(like.extend(unlike), rows_of(40, SAFE_WORDS, 2, "safe"))
    assert (found[:60, None] > found[60:]).mean() > 0.99


def test_prompts_do_not_count():
    safe = rows_of(40, SAFE_WORDS, 2, "safe")
    one, other = with_other_prompts()
    assert np.array_equal(scores(one, safe), scores(other, safe))


def test_blocks_of_any_size_give_the_same_scores():
    rows, safe = random_rows(40), random_rows(9, 1, "safe")
    assert scores(rows, safe, block=7) == pytest.approx(scores(rows, safe), abs=1e-6)


def test_sketched_cosines_are_close_to_those_of_tfidf():
    rows = rows_of(40, (3, 300), 0, "row")
    found = embedding.vectors(rows, 0, 40, embedding.inverse_frequencies(rows))
    lists = [Counter(grams) for grams in ngram_lists(rows)]
    names = sorted({gram for own in lists for gram in own})
    frequency = {gram: sum(gram in own for own in lists) for gram in names}
    weight = {gram: math.log(41 / (1 + frequency[gram])) + 1 for gram in names}
    dense = np.array([[weight[g] * (1 + math.log(own[g])) if own[g] else 0 for g in names] for own in lists])
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    assert np.abs(found @ found.T - dense @ dense.T).max() < 0.15
    assert np.abs(found @ found.T - dense @ dense.T).mean() < 0.03


def test_a_row_is_not_its_own_neighbour():
    one = random_rows(1)
    assert scores(one, one)[0] == pytest.approx(1)  # 1 to the safe set; there are no other candidates
    two = one.extend(Encoded.join(["far"], ["made"], [(np.arange(290, 299), np.ones(9, bool))]))
    assert scores(two, one)[0] == pytest.approx(1, abs=0.1)


def test_comparing_with_a_sample_of_the_rows_keeps_the_ranking(monkeypatch):
    like, unlike = rows_of(60, SAFE_WORDS, 0, "like"), rows_of(60, OTHER_WORDS, 1, "unlike")
    monkeypatch.setattr(embedding, "REFERENCES", 30)
    found = scores(like.extend(unlike), rows_of(40, SAFE_WORDS, 2, "safe"))
    assert (found[:60, None] > found[60:]).mean() > 0.95


def test_a_row_without_response_tokens_has_a_finite_score():
    empty = Encoded.join(["empty"], ["made"], [(np.arange(3, 9), np.zeros(6, bool))])
    assert np.isfinite(scores(random_rows(9).extend(empty), random_rows(5, 1, "safe"))).all()
