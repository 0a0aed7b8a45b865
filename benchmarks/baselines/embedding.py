"""TF-IDF nearness: is a row nearer to the safe set than to the other candidates? No model.

Nearness to the safe set alone favours rows of common words; subtracting nearness to the other candidates leaves what is
specific to the safe set: a log density ratio, estimated by nearest neighbours. "Near" is the mean cosine to the nearest
``SHARE`` of each set. The same count of rows in each would reach deeper into the smaller set.

Vectors are sketched to ``WIDTH`` signed sums, which preserves cosines to about 1 / sqrt(WIDTH), and compared with at
most ``REFERENCES`` rows of each set, drawn by the seed. So time grows with N, not N squared, and memory hardly at all.

Source: Salton and Buckley (1988), "Term-weighting approaches in automatic text retrieval" (TF-IDF); Weinberger et al.
(ICML 2009), arXiv 0902.2206 (signed hashing).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import FloatArray, IntArray
from sealtune.core.types import Scores
from sealtune.data.encoded import Encoded
from sealtune.ranking.job import Job
from sealtune.ranking.ngrams import BLOCK, HashArray, blocks, hashed_ngrams

TERMS = 2**20
WIDTH = 2**11
REFERENCES = 2**12
SHARE = 0.1
"""With a much smaller share, one word that two rows happen to share decides."""

Vectors = npt.NDArray[np.float32]


def rank(job: Job, block: int = BLOCK) -> Scores:
    """Mean cosine to the nearest safe rows minus mean cosine to the nearest other candidates, in [-2, 2]."""
    rows, n = job.candidates, len(job.candidates)
    idf = inverse_frequencies(rows, job.safe, block=block)
    safe, rest = _draw(len(job.safe), job.config.seed, 0), _draw(n, job.config.seed, 1)
    safe_vectors, rest_vectors = _embed(job.safe, safe, idf, block), _embed(rows, rest, idf, block)
    score = np.empty(n)
    for start, stop in blocks(rows, block):
        found = vectors(rows, start, stop, idf)
        to_rest = found @ rest_vectors.T
        own = np.flatnonzero((rest >= start) & (rest < stop))
        to_rest[rest[own] - start, own] = -np.inf  # a row is not its own neighbour
        score[start:stop] = nearness(found @ safe_vectors.T, len(safe)) - nearness(to_rest, n - 1)
    return Scores.unweighted(rows.ids, rows.source, score)


def inverse_frequencies(*sets: Encoded, block: int = BLOCK) -> FloatArray:
    """log((1 + N) / (1 + rows with the term)) + 1 over the rows of all sets, (TERMS,)."""
    found, total = np.zeros(TERMS), 0
    for rows in sets:
        total += len(rows)
        for start, stop in blocks(rows, block):
            owner, hashes = hashed_ngrams(rows, start, stop)
            found += np.bincount(np.unique(owner * TERMS + _terms(hashes)) % TERMS, minlength=TERMS)
    weights: FloatArray = np.log((1 + total) / (1 + found)) + 1
    return weights


def vectors(rows: Encoded, start: int, stop: int, idf: FloatArray) -> Vectors:
    """Sketched TF-IDF vectors of rows ``start`` to ``stop``, (R, WIDTH), of length 1; 0 for a row without n-grams."""
    owner, hashes = hashed_ngrams(rows, start, stop)
    pairs, counts = np.unique(owner * TERMS + _terms(hashes), return_counts=True)
    owner, terms = np.divmod(pairs, TERMS)
    values = (1 + np.log(counts)) * idf[terms]  # the logarithm: a word repeated ten times does not count tenfold
    # The low bits of a term are its position, the next one its sign: both are bits of the hash.
    values *= np.where(terms // WIDTH % 2, -1.0, 1.0)
    flat = np.bincount(owner * WIDTH + terms % WIDTH, values, minlength=(stop - start) * WIDTH)
    sketch = flat.reshape(-1, WIDTH)
    unit: Vectors = (sketch / np.linalg.norm(sketch, axis=1, keepdims=True).clip(min=1e-12)).astype(np.float32)
    return unit


def nearness(cosines: Vectors, others: int) -> FloatArray:
    """Mean of the largest ``SHARE`` of each row of cosines (R, K), at least one; 0 if there are no ``others``."""
    if others == 0:
        return np.zeros(len(cosines))
    k = max(1, round(SHARE * min(others, cosines.shape[1])))
    nearest = np.partition(cosines, -k, axis=1)[:, -k:]
    mean: FloatArray = nearest.mean(axis=1, dtype=np.float64)
    return mean


def _draw(n: int, seed: int, stream: int) -> IntArray:
    """Positions of the rows to compare with, in order: all, or ``REFERENCES`` drawn at random."""
    if n <= REFERENCES:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, stream]).choice(n, REFERENCES, replace=False))


def _embed(rows: Encoded, chosen: IntArray, idf: FloatArray, block: int) -> Vectors:
    picked = rows.take(chosen)
    return np.concatenate([vectors(picked, start, stop, idf) for start, stop in blocks(picked, block)])


def _terms(hashes: HashArray) -> IntArray:
    return (hashes % np.uint64(TERMS)).astype(np.int64)
