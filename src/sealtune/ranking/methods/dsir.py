"""DSIR: importance weights of hashed n-grams. No model: rows that share their words with the safe set are kept.

Source: Xie, Santurkar, Ma, Liang (NeurIPS 2023), arXiv 2302.03169, section 3. As in their package ``data-selection``:
unigrams and bigrams in 10,000 buckets. Differences: n-grams of token ids in responses, not of lower-case words in whole
texts; smoothing adds one to counts (``ADDED``); the score is the mean, not the sum; rows are ranked, not sampled, and
short ones stay. Without these differences the log-weights are equal (tests/ranking/methods/test_dsir_reference.py).
"""

from __future__ import annotations

import numpy as np

from sealtune.core.config import RankConfig
from sealtune.core.string_array import FloatArray, IntArray
from sealtune.core.types import Scores
from sealtune.data.encoded import Encoded
from sealtune.ranking.job import Amounts, Cost, Job, Ranker
from sealtune.ranking.ngrams import HashArray, blocks, hashed_ngrams

BUCKETS = 10_000
"""As in the paper."""

ADDED = 1.0
"""Added to the count of each bucket, where their code adds 1e-8 to each share: safe sets may be small here, and that
twenty rows happen to miss a bucket is not evidence of eighteen nats."""


def rank(job: Job) -> Scores:
    """Mean log-ratio, safe set over candidates, of a row's n-grams, in nats.

    The paper's log-weight is the sum. A sum grows with length, so the longest rows would fill both ends of the ranking
    whatever they say (the paper drops short texts and samples instead); the mean compares rows of any length.
    """
    rows = job.candidates
    ratio = np.log(bucket_shares(job.safe)) - np.log(bucket_shares(rows))
    return Scores.unweighted(rows.ids, rows.source, _means(rows, ratio))


def cost(settings: RankConfig, amounts: Amounts) -> Cost:
    """No model."""
    return Cost()


def bucket_shares(rows: Encoded) -> FloatArray:
    """The share of n-grams in each bucket, (BUCKETS,), all above 0."""
    counts = np.full(BUCKETS, ADDED)
    for start, stop in blocks(rows):
        _, hashes = hashed_ngrams(rows, start, stop)
        counts += np.bincount(_buckets(hashes), minlength=BUCKETS)
    shares: FloatArray = counts / counts.sum()
    return shares


def _means(rows: Encoded, ratio: FloatArray) -> FloatArray:
    """Mean of ``ratio`` over each row's n-grams, (N,); 0, which favours neither set, for a row without any."""
    means = np.empty(len(rows))
    for start, stop in blocks(rows):
        owner, hashes = hashed_ngrams(rows, start, stop)
        totals = np.bincount(owner, ratio[_buckets(hashes)], minlength=stop - start)
        means[start:stop] = totals / np.bincount(owner, minlength=stop - start).clip(min=1)
    return means


def _buckets(hashes: HashArray) -> IntArray:
    return (hashes % np.uint64(BUCKETS)).astype(np.int64)


RANKER = Ranker(rank, cost)
