"""DSIR: importance weights of hashed n-grams. No model: a row whose words are the safe set's own is kept.

Source: Xie, Santurkar, Ma, Liang (NeurIPS 2023), arXiv 2302.03169, section 3. As in their package ``data-selection``:
unigrams and bigrams in 10,000 buckets. Not as there: n-grams are of token ids in responses, not of lower-case words in
whole texts; smoothing adds one to counts (``ADDED``); the score is the mean, not the sum; rows are ranked, not sampled,
and short ones stay. With these taken away the log-weights are equal (tests/rankers/test_dsir_reference.py).
"""

from __future__ import annotations

import numpy as np

from sealtune.data.ngrams import HashArray, blocks, hashed_ngrams
from sealtune.encoded import Encoded
from sealtune.rankers import Job
from sealtune.records import FloatArray, IntArray, Scores

BUCKETS = 10_000
"""As in the paper."""
ADDED = 1.0
"""To the count of each bucket, where their code adds 1e-8 to each share: safe sets here may be small, and a bucket that
twenty rows happen to miss is no evidence of eighteen nats."""


def rank(job: Job) -> Scores:
    """Mean log-ratio, safe set over candidates, of a row's n-grams, in nats.

    The paper's log-weight is the sum. A sum grows with length, so that the longest rows would hold both ends of the
    ranking whatever they say (the paper drops short texts and samples instead); the mean compares rows of any length.
    """
    ratio = np.log(bucket_shares(job.safe)) - np.log(bucket_shares(job.candidates))
    return Scores.unweighted(job.candidates, _means(job.candidates, ratio))


def bucket_shares(rows: Encoded) -> FloatArray:
    """The share of n-grams in each bucket, (BUCKETS,), all above 0."""
    counts = np.full(BUCKETS, ADDED)
    for start, stop in blocks(rows):
        _, hashes = hashed_ngrams(rows, start, stop)
        counts += np.bincount(_buckets(hashes), minlength=BUCKETS)
    shares: FloatArray = counts / counts.sum()
    return shares


def _means(rows: Encoded, ratio: FloatArray) -> FloatArray:
    """Mean of ``ratio`` over each row's n-grams, (N,); 0, the indifferent value, for a row without any."""
    means = np.empty(len(rows))
    for start, stop in blocks(rows):
        owner, hashes = hashed_ngrams(rows, start, stop)
        totals = np.bincount(owner, ratio[_buckets(hashes)], minlength=stop - start)
        means[start:stop] = totals / np.bincount(owner, minlength=stop - start).clip(min=1)
    return means


def _buckets(hashes: HashArray) -> IntArray:
    return (hashes % np.uint64(BUCKETS)).astype(np.int64)
