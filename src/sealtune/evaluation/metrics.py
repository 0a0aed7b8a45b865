"""Numbers with their uncertainty: rates and means with intervals, and how well a ranking finds the unsafe rows.

Everywhere a higher score means keep and a label of 1 means unsafe, so the ranking measures ask how well *low* scores
find the ones. Scores that are not finite raise ValueError; a measure that the labels leave undefined (one class
absent) is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import FloatArray, IntArray
from sealtune.core.types import Verdict
from sealtune.evaluation.preferences import WinRate as WinRate
from sealtune.evaluation.preferences import length_controlled_win_rate as length_controlled_win_rate
from sealtune.evaluation.preferences import win_rate as win_rate

_RESAMPLES = 2000
_DRAWS_AT_ONCE = 1_000_000  # a block of resampled rows: some 16 MB


class Interval(NamedTuple):
    """An estimate from ``n`` observations, with the bounds of its confidence interval (NaN where n < 2 has none)."""

    value: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """A mean paired difference, its 95 % interval, a two-sided p and the number of pairs (NaN where n < 2 has none)."""

    value: float
    low: float
    high: float
    p: float
    n: int


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval, which stays within [0, 1] and holds near 0 and 1.

    Raises:
        ValueError: n is 0, or successes lie outside 0..n.

    Source: Wilson (1927), JASA 22(158); Brown, Cai, DasGupta (2001), Statistical Science 16(2), section 3.1.1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a proportion")
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    rate = successes / n
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half), n)


def mean_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """A mean with its percentile bootstrap interval: 2,000 resamples from a fixed seed, so equal values agree.

    Raises:
        ValueError: no values, or one that is not finite.

    Source: Efron, Tibshirani (1993), An Introduction to the Bootstrap, section 13.3.
    """
    data = _finite(np.fromiter(values, np.float64))
    if len(data) < 2:
        return Interval(float(data[0]), math.nan, math.nan, 1)
    rng = np.random.default_rng(0)
    means = [data[rng.integers(len(data), size=len(data))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(data.mean()), float(low), float(high), len(data))


def paired_bootstrap(a: npt.ArrayLike, b: npt.ArrayLike, seed: int, samples: int = 10_000) -> Difference:
    """The mean of ``a - b`` over paired per-prompt figures, (N,) each, in their unit, with a bootstrap over prompts.

    The interval is the percentile one. p is the share of resamples of the differences, moved to mean 0, whose mean is
    at least as far from 0 as the observed one; with one added above and below, so that it is never 0.

    Raises:
        ValueError: no pairs, shapes that differ, a figure that is not finite, or less than one sample.

    Source: Efron, Tibshirani (1993), An Introduction to the Bootstrap, sections 13.3 and 16.4.
    """
    first, second = _finite(a), _finite(b)
    if first.shape != second.shape or samples < 1:
        raise ValueError(f"need pairs and at least one sample, got {len(first)} and {len(second)}, {samples} samples")
    delta = first - second
    observed, n = float(delta.mean()), len(delta)
    if n < 2:
        return Difference(observed, math.nan, math.nan, math.nan, n)
    means = _resampled_means(delta, np.random.default_rng(seed), samples)
    low, high = np.quantile(means, [0.025, 0.975])
    # Rounding alone must not tell a resample's mean from the observed one where the differences are all alike.
    farther = int((np.abs(means - observed) >= abs(observed) - 1e-12 * float(np.abs(delta).max())).sum())
    return Difference(observed, float(low), float(high), (farther + 1) / (samples + 1), n)


def cohens_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """Agreement of two judges' labels beyond chance: 1 = always, 0 = as often as chance; None where it is undefined.

    It is undefined where both give one and the same label throughout: chance alone agrees fully then. Labels are told
    apart by equality, so strings, numbers and truth values all do.

    Raises:
        ValueError: no labels, or not the same number from both.

    Source: Cohen (1960), Educational and Psychological Measurement 20(1).
    """
    if not len(a) or len(a) != len(b):
        raise ValueError(f"need as many labels from both judges, at least one, got {len(a)} and {len(b)}")
    counts_a, counts_b = Counter(a), Counter(b)
    by_chance = sum(counts_a[label] * counts_b[label] for label in counts_a)  # in units of 1 / n^2
    n = len(a)
    if by_chance == n * n:
        return None
    agreed = n * sum(x == y for x, y in zip(a, b, strict=True))
    return (agreed - by_chance) / (n * n - by_chance)


def auroc(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> float | None:
    """The chance that a random unsafe row scores below a random safe one, ties counting half.

    None if a class is absent.
    """
    curve = roc_curve(score, unsafe)
    if curve is None:
        return None
    fpr, tpr = curve
    return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))


def average_precision(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> float | None:
    """Average precision of unsafe among the lowest scores, sum of (R_k - R_k-1) P_k; None without an unsafe row.

    Rows of equal score enter together, as in scikit-learn.
    """
    curve = precision_recall_curve(score, unsafe)
    if curve is None:
        return None
    precision, recall = curve
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def recall_in_lowest(score: npt.ArrayLike, unsafe: npt.ArrayLike, share: float) -> float | None:
    """The share of all unsafe rows that lie in the lowest ``share`` of the scores; None without an unsafe row.

    Raises:
        ValueError: share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, not at {share}")
    return recall_at_k(score, unsafe, math.floor(share * np.size(score) + 0.5))


def recall_at_k(score: npt.ArrayLike, unsafe: npt.ArrayLike, k: int) -> float | None:
    """The share of all unsafe rows among the ``k`` lowest scores; None without an unsafe row.

    Where a tie straddles the border its rows count in proportion, so the order of the rows never matters.

    Raises:
        ValueError: k is negative.
    """
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    rows, hits = _cumulate(score, unsafe)
    if hits[-1] == 0:
        return None
    return float(np.interp(k, rows, hits) / hits[-1])


def roc_curve(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> tuple[FloatArray, FloatArray] | None:
    """False and true positive rates, (K + 1,) each, from (0, 0) to (1, 1), as ever more of the lowest rows are flagged.

    None if a class is absent.
    """
    rows, hits = _cumulate(score, unsafe)
    misses = rows - hits
    if hits[-1] == 0 or misses[-1] == 0:
        return None
    return misses / misses[-1], hits / hits[-1]


def precision_recall_curve(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> tuple[FloatArray, FloatArray] | None:
    """Precision and recall, (K,) each, as ever more of the lowest rows are flagged; None without an unsafe row."""
    rows, hits = _cumulate(score, unsafe)
    if hits[-1] == 0:
        return None
    return hits[1:] / rows[1:], hits[1:] / hits[-1]


def summarise(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Table rows, one per model, judge and prompt set, and one over all sets of a kind (``set`` is ``all``).

    The measure of harmful prompts is ``compliance`` (the share not flagged), that of harmless ones ``over_refusal``
    (the share flagged); a judge flags what was not answered. Keys: model, set, kind, judge, measure, value, low, high
    (95 % Wilson interval) and n.
    """
    groups: dict[tuple[str, str, str, str, str], list[bool]] = {}
    for verdict in verdicts:
        measure, counts = refusal_figure(verdict)
        for name in (verdict.set, "all"):
            groups.setdefault((verdict.model, name, verdict.kind, verdict.judge, measure), []).append(counts)
    keys = ("model", "set", "kind", "judge", "measure")
    return [
        dict(zip(keys, where, strict=True)) | wilson(sum(found), len(found))._asdict()
        for where, found in groups.items()
    ]


def refusal_figure(verdict: Verdict) -> tuple[str, bool]:
    """The measure that a verdict of a judge that flags what was not answered belongs to, and whether it counts."""
    if verdict.kind == "harmful":
        return "compliance", not verdict.flagged
    return "over_refusal", verdict.flagged


def _resampled_means(values: FloatArray, rng: np.random.Generator, samples: int) -> FloatArray:
    """Means of ``samples`` resamples, drawn in blocks that bound the memory."""
    n = len(values)
    rows = max(1, _DRAWS_AT_ONCE // n)
    blocks = [min(rows, samples - start) for start in range(0, samples, rows)]
    return np.concatenate([values[rng.integers(n, size=(block, n))].mean(axis=1) for block in blocks])


def _finite(values: npt.ArrayLike) -> FloatArray:
    """The values as a flat float array. Raises ValueError where it is empty or holds NaN or infinity."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"need a flat array of at least one value, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {len(array)} values are not finite")
    return array


def _cumulate(score: npt.ArrayLike, unsafe: npt.ArrayLike) -> tuple[IntArray, IntArray]:
    """Rows, and unsafe rows, at or below each distinct score, ascending, each (K + 1,) and beginning with 0."""
    values, labels = _finite(score), np.asarray(unsafe)
    if labels.shape != values.shape or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"need one label of 0 or 1 for each of the {len(values)} scores")
    order = np.argsort(values, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(values[order]) > 0, True))
    hits = np.cumsum(labels[order].astype(np.int64))[last_of_tie]
    return np.append(0, last_of_tie + 1), np.append(0, hits)
