"""Rates and means with confidence intervals, and how well a ranking finds the unsafe rows.

A higher score means keep and a label of 1 means unsafe, so the ranking metrics ask how well *low* scores find the
unsafe rows. Scores that are not finite raise ValueError. A metric that is undefined because a class is absent is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import FloatArray, IntArray
from sealtune.evaluation.preferences import WinRate as WinRate
from sealtune.evaluation.preferences import win_rate as win_rate

_RESAMPLES = 2000
_DRAWS_PER_BATCH = 1_000_000  # bounds the memory of resampled rows to about 16 MB


class Interval(NamedTuple):
    """An estimate from ``n`` observations with the bounds of its confidence interval (NaN if n is 1)."""

    value: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """A mean paired difference, its 95 % interval, a two-sided p-value and the number of pairs (NaN if n is 1)."""

    value: float
    low: float
    high: float
    p: float
    n: int


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval, which stays within [0, 1] and is accurate near 0 and 1.

    Raises:
        ValueError: n is 0, or successes are outside 0..n.

    Source: Wilson (1927), JASA 22(158); Brown, Cai, DasGupta (2001), Statistical Science 16(2), section 3.1.1.
    """
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(level, "wilson")
    return Interval(successes / n, float(found.low), float(found.high), n)


def mean_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """A mean with its percentile bootstrap interval. The seed is fixed, so equal values give equal intervals.

    Raises:
        ValueError: no values, or one that is not finite.

    Source: Efron, Tibshirani (1993), An Introduction to the Bootstrap, section 13.3.
    """
    data = _finite(np.fromiter(values, np.float64))
    if len(data) < 2:
        return Interval(float(data[0]), math.nan, math.nan, 1)
    low, high, _ = _bootstrap(data, seed=0, samples=_RESAMPLES, level=level)
    return Interval(float(data.mean()), low, high, len(data))


def paired_bootstrap(a: npt.ArrayLike, b: npt.ArrayLike, seed: int, samples: int = 10_000) -> Difference:
    """The mean of ``a - b`` over paired values per prompt, (N,) each, with a percentile bootstrap over prompts.

    p is the share of resamples of the differences, shifted to mean 0, whose mean is at least as far from 0 as the
    observed one; one resample is added to both counts, so that p is never 0. (scipy's ``permutation_test`` answers
    another question: it flips the signs of the differences instead of resampling prompts.)

    Raises:
        ValueError: no pairs, different shapes, a value that is not finite, or no samples.

    Source: Efron, Tibshirani (1993), An Introduction to the Bootstrap, sections 13.3 and 16.4.
    """
    first, second = _finite(a), _finite(b)
    if first.shape != second.shape or samples < 1:
        raise ValueError(f"need pairs and at least one sample, got {len(first)} and {len(second)}, {samples} samples")
    delta = first - second
    observed, n = float(delta.mean()), len(delta)
    if n < 2:
        return Difference(observed, math.nan, math.nan, math.nan, n)
    low, high, means = _bootstrap(delta, seed, samples)
    # If all differences are equal, rounding errors must not make a resample's mean differ from the observed one.
    farther = int((np.abs(means - observed) >= abs(observed) - 1e-12 * float(np.abs(delta).max())).sum())
    return Difference(observed, low, high, (farther + 1) / (samples + 1), n)


def auroc(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> float | None:
    """The probability that a random unsafe row scores below a random safe one; ties count half.

    None if a class is absent.
    """
    from sklearn.metrics import roc_auc_score

    values, labels = _ranking(score, unsafe)
    return float(roc_auc_score(labels, -values)) if 0 < labels.sum() < len(labels) else None


def average_precision(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> float | None:
    """Average precision of unsafe rows among the lowest scores; None without an unsafe row."""
    from sklearn.metrics import average_precision_score

    values, labels = _ranking(score, unsafe)
    return float(average_precision_score(labels, -values)) if labels.any() else None


def recall_in_lowest(score: npt.ArrayLike, unsafe: npt.ArrayLike, share: float) -> float | None:
    """The share of all unsafe rows that are in the lowest ``share`` of the scores; None without an unsafe row.

    Raises:
        ValueError: share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    return recall_at_k(score, unsafe, math.floor(share * np.size(score) + 0.5))


def recall_at_k(score: npt.ArrayLike, unsafe: npt.ArrayLike, k: int) -> float | None:
    """The share of all unsafe rows among the ``k`` lowest scores; None without an unsafe row.

    Rows that tie at the k-th place count in proportion, so the order of the rows never matters.

    Raises:
        ValueError: k is negative.
    """
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    values, labels = _ranking(score, unsafe)
    if not labels.any():
        return None
    _, rows_per_value = np.unique(values, return_counts=True)
    rows = np.append(0, np.cumsum(rows_per_value))
    hits = np.append(0, np.cumsum(labels[np.argsort(values)]))[rows]
    return float(np.interp(k, rows, hits) / hits[-1])


def roc_curve(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> tuple[FloatArray, FloatArray] | None:
    """False and true positive rates, (K + 1,) each, from (0, 0) to (1, 1), as more of the lowest rows are flagged.

    None if a class is absent.
    """
    from sklearn import metrics

    values, labels = _ranking(score, unsafe)
    if not 0 < labels.sum() < len(labels):
        return None
    fpr, tpr, _ = metrics.roc_curve(labels, -values, drop_intermediate=False)
    return fpr, tpr


def precision_recall_curve(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> tuple[FloatArray, FloatArray] | None:
    """Precision and recall, (K,) each, as more of the lowest rows are flagged; None without an unsafe row."""
    from sklearn import metrics

    values, labels = _ranking(score, unsafe)
    if not labels.any():
        return None
    precision, recall, _ = metrics.precision_recall_curve(labels, -values)
    return precision[-2::-1], recall[-2::-1]


def _bootstrap(data: FloatArray, seed: int, samples: int, level: float = 0.95) -> tuple[float, float, FloatArray]:
    """Bounds of the percentile interval of the mean, and the means of all resamples, (samples,)."""
    from scipy.stats import bootstrap

    found = bootstrap(
        (data,),
        np.mean,
        n_resamples=samples,
        confidence_level=level,
        method="percentile",
        batch=max(1, _DRAWS_PER_BATCH // len(data)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return float(low), float(high), found.bootstrap_distribution


def _ranking(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    """Scores and labels as arrays. Raises ValueError unless all are finite and each score has a label of 0 or 1."""
    values, labels = _finite(score), np.asarray(unsafe)
    if labels.shape != values.shape or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"need one label of 0 or 1 for each of the {len(values)} scores")
    return values, labels.astype(np.int64)


def _finite(values: npt.ArrayLike) -> FloatArray:
    """The values as a flat float array. Raises ValueError if it is empty or contains NaN or infinity."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"need a flat array of at least one value, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {len(array)} values are not finite")
    return array
