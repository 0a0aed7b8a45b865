"""Our DSIR beside its authors' package, on the same tokens: the same log-weights, but for smoothing and length."""

import random
from itertools import chain, pairwise

import numpy as np
import pytest

from sealtune.core.config_io import build_config
from sealtune.data.encoded import Encoded
from sealtune.ranking import methods
from sealtune.ranking.job import Job
from sealtune.ranking.methods import dsir

reference = pytest.importorskip("data_selection", reason="data-selection, the reference of DSIR, is not installed")

KINDLY = [["we", "friends"], ["gladly", "often"], ["help", "teach"], ["people", "children", "neighbours"]]
RUDELY = [["we", "thieves"], ["often", "secretly"], ["rob", "teach"], ["people", "shops", "neighbours"]]
IDS = {word: i for i, word in enumerate(sorted({word for place in KINDLY + RUDELY for word in place}))}


def rows(n, seed, share):
    """Rows of one to eight sentences each, as lists of words; ``share`` of the sentences are kind."""
    chance = random.Random(seed)

    def sentence():
        return [chance.choice(place) for place in (KINDLY if chance.random() < share else RUDELY)]

    return [list(chain.from_iterable(sentence() for _ in range(chance.randint(1, 8)))) for _ in range(n)]


def ours(candidates, safe):
    def encoded(texts, name):
        parts = [(np.array([IDS[word] for word in words]), np.ones(len(words), bool)) for words in texts]
        return Encoded.join([f"{name}-{i:03d}" for i in range(len(texts))], ["made"] * len(texts), parts)

    config = build_config({"model_name_or_path": "none", "rank": {"method": "dsir"}})
    job = Job(encoded(candidates, "row"), encoded(safe, "safe"), config, lambda full: pytest.fail("no model"))
    return methods.rank(job).score


def theirs(candidates, safe, folder, buckets=dsir.BUCKETS):
    """The package's log-weights, (N,). It cuts words at blanks and punctuation, so that its tokens are our words."""
    sets = {"raw": candidates, "target": safe}

    def load(name):
        return [{"text": " ".join(words)} for words in sets[name]]

    weights = reference.HashedNgramDSIR(["raw"], ["target"], str(folder), load, target_load_dataset_fn=load, num_proc=1)
    weights.num_buckets = buckets
    weights.fit_importance_estimator("all")
    weights.compute_importance_weights()
    return np.load(folder / "log_importance_weights" / "0.npy")


def ngrams(texts):
    """How many n-grams each row has, and which there are."""
    lists = [[*words, *pairwise(words)] for words in texts]
    return np.array([len(own) for own in lists]), {gram for own in lists for gram in own}


def rank_correlation(a, b):
    return np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1]


def test_without_smoothing_the_log_weights_are_the_references_divided_by_the_number_of_ngrams(tmp_path, monkeypatch):
    candidates, safe = rows(48, 0, 0.4), rows(400, 1, 0.7)
    counts, found = ngrams(candidates)
    assert found <= ngrams(safe)[1]  # else smoothing alone decides
    monkeypatch.setattr(dsir, "BUCKETS", 2**20)  # the hashes differ, so no two n-grams may share a bucket
    monkeypatch.setattr(dsir, "ADDED", 1e-9)
    expected = theirs(candidates, safe, tmp_path, 2**20)
    assert expected.std() > 1
    assert ours(candidates, safe) * counts == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_as_shipped_it_orders_rows_as_the_reference_does_per_ngram(tmp_path, seed):
    candidates, safe = rows(48, seed, 0.4), rows(400, seed + 10, 0.7)
    expected = theirs(candidates, safe, tmp_path) / ngrams(candidates)[0]
    assert rank_correlation(ours(candidates, safe), expected) > 0.99


def test_what_a_small_safe_set_misses_costs_the_reference_more(tmp_path):
    candidates, safe = rows(48, 0, 0.4), rows(3, 1, 1.0)
    expected = theirs(candidates, safe, tmp_path) / ngrams(candidates)[0]
    assert expected.min() < -5
    assert np.abs(ours(candidates, safe)).max() < 5
