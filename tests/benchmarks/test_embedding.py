"""The rankers that look at n-grams alone: DSIR and TF-IDF nearness, and the n-grams themselves."""

import math
from collections import Counter

import numpy as np
import pytest

from helpers.tiny import random_rows
from sealtune.core.config_io import build_config
from sealtune.data.encoded import Encoded
from sealtune.ranking import methods, ngrams
from sealtune.ranking.job import Job
from sealtune.ranking.methods import dsir, embedding

SAFE_WORDS, OTHER_WORDS = (3, 60), (60, 300)


def rows_of(n, words, seed, prefix, prompt=(3, 300)):
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(n):
        asked, answered = random.integers(*prompt, 4), random.integers(*words, random.integers(20, 60))
        parts.append((np.concatenate([asked, answered]), np.arange(4 + len(answered)) >= 4))
    return Encoded.join([f"{prefix}-{i:03d}" for i in range(n)], ["made"] * n, parts)


def rank(method, candidates, safe):
    config = build_config({"model_name_or_path": "none", "rank": {"method": method}})
    return methods.rank(Job(candidates, safe, config, lambda full: pytest.fail("no model is needed")))


def ngram_lists(rows):
    """The n-grams of each row, the obvious way."""
    for i in range(len(rows)):
        tokens, mask = (part.tolist() for part in rows.row(i))
        own = [(t,) for t, learned in zip(tokens, mask, strict=True) if learned]
        yield own + [(tokens[j - 1], tokens[j]) for j in range(1, len(tokens)) if mask[j - 1] and mask[j]]


def test_ngrams_are_those_of_learned_tokens_and_cross_neither_rows_nor_turns():
    turns = (np.array([5, 6, 7, 6, 7, 9]), np.array([0, 1, 1, 0, 1, 1], bool))
    rows = Encoded.join(["a", "b", "c"], ["made"] * 3, [turns, turns, (np.array([7, 7]), np.array([1, 1], bool))])
    owner, hashes = ngrams.hashed_ngrams(rows, 0, 3)
    for i, expected in enumerate(ngram_lists(rows)):
        counts = Counter(hashes[owner == i].tolist())
        assert sorted(counts.values()) == sorted(Counter(expected).values())
    assert len(set(hashes.tolist())) == len({g for own in ngram_lists(rows) for g in own})
    again = ngrams.hashed_ngrams(rows, 1, 3)
    assert np.array_equal(again[1][again[0] == 0], hashes[owner == 1])


def test_blocks_of_any_size_give_the_same_scores(monkeypatch):
    rows, safe = random_rows(40), random_rows(9, 1, "safe")
    whole = [rank(method, rows, safe).score for method in ("dsir", "embedding")]
    monkeypatch.setattr(ngrams.blocks, "__defaults__", (7,))
    small = [rank(method, rows, safe).score for method in ("dsir", "embedding")]
    assert np.array_equal(whole[0], small[0])
    assert small[1] == pytest.approx(whole[1], abs=1e-6)


@pytest.mark.parametrize("method", ["dsir", "embedding"])
def test_rows_of_the_safe_sets_words_come_first(method):
    like, unlike = rows_of(60, SAFE_WORDS, 0, "like"), rows_of(60, OTHER_WORDS, 1, "unlike")
    score = rank(method, like.extend(unlike), rows_of(40, SAFE_WORDS, 2, "safe")).score
    assert (score[:60, None] > score[60:]).mean() > 0.99


@pytest.mark.parametrize("method", ["dsir", "embedding"])
def test_prompts_do_not_count(method):
    safe = rows_of(40, SAFE_WORDS, 2, "safe")
    one, other = (rows_of(30, (3, 300), 0, "row", prompt) for prompt in (SAFE_WORDS, OTHER_WORDS))
    masked = one.tokens[one.mask]
    replaced = Encoded(other.ids, other.source, other.tokens.copy(), one.mask, one.bounds)
    replaced.tokens[one.mask] = masked
    assert not np.array_equal(one.tokens, replaced.tokens)
    assert np.array_equal(rank(method, one, safe).score, rank(method, replaced, safe).score)


def test_dsir_is_the_formula():
    rows, safe = random_rows(30), random_rows(12, 1, "safe")
    bucket = {}
    for part in (rows, safe):
        owner, hashes = ngrams.hashed_ngrams(part, 0, len(part))
        for i, grams in enumerate(ngram_lists(part)):
            bucket |= dict(zip(grams, (hashes[owner == i] % np.uint64(dsir.BUCKETS)).tolist(), strict=True))

    def shares(part):
        counts = Counter(bucket[g] for grams in ngram_lists(part) for g in grams)
        total = counts.total() + dsir.BUCKETS
        return lambda gram: (counts[bucket[gram]] + 1) / total

    target, raw = shares(safe), shares(rows)
    expected = [np.mean([math.log(target(g) / raw(g)) for g in grams]) for grams in ngram_lists(rows)]
    assert rank("dsir", rows, safe).score == pytest.approx(expected)


def test_length_alone_does_not_move_a_row():
    tokens = np.tile(np.arange(3, 9), 1)
    parts = [(np.tile(tokens, k), np.ones(6 * k, bool)) for k in (5, 50)]
    rows = Encoded.join(["short", "long"], ["made"] * 2, parts).extend(random_rows(50))
    short, long, *rest = rank("dsir", rows, rows_of(40, SAFE_WORDS, 2, "safe")).score
    assert abs(short - long) < 0.1 * np.std(rest)


def test_sketched_cosines_are_those_of_tfidf():
    rows = rows_of(40, (3, 300), 0, "row")
    idf = embedding.inverse_frequencies(rows)
    found = embedding.vectors(rows, 0, 40, idf)
    lists = [Counter(grams) for grams in ngram_lists(rows)]
    names = sorted({g for own in lists for g in own})
    share = {g: sum(g in own for own in lists) for g in names}
    weight = {g: math.log(41 / (1 + share[g])) + 1 for g in names}
    dense = np.array([[weight[g] * (1 + math.log(own[g])) if own[g] else 0 for g in names] for own in lists])
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    assert np.abs(found @ found.T - dense @ dense.T).max() < 0.15
    assert np.abs(found @ found.T - dense @ dense.T).mean() < 0.03


def test_a_row_is_no_neighbour_of_its_own():
    one = random_rows(1)
    assert rank("embedding", one, one).score[0] == pytest.approx(1)  # to the safe set 1; to the rest, there is none
    two = one.extend(Encoded.join(["far"], ["made"], [(np.arange(290, 299), np.ones(9, bool))]))
    assert rank("embedding", two, one).score[0] == pytest.approx(1, abs=0.1)


def test_a_sample_of_the_rows_to_compare_with_keeps_the_ranking(monkeypatch):
    like, unlike = rows_of(60, SAFE_WORDS, 0, "like"), rows_of(60, OTHER_WORDS, 1, "unlike")
    monkeypatch.setattr(embedding, "REFERENCES", 30)
    score = rank("embedding", like.extend(unlike), rows_of(40, SAFE_WORDS, 2, "safe")).score
    assert (score[:60, None] > score[60:]).mean() > 0.95


@pytest.mark.parametrize("method", ["dsir", "embedding"])
def test_a_row_without_response_tokens_has_a_score_of_its_own(method):
    empty = Encoded.join(["empty"], ["made"], [(np.arange(3, 9), np.zeros(6, bool))])
    score = rank(method, random_rows(9).extend(empty), random_rows(5, 1, "safe")).score
    assert np.isfinite(score).all()
