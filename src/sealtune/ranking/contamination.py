"""How many of the rows are unsafe? An estimate from the logits of a probe that was fitted without the safe set.

The safe set is the null distribution. The probe never saw it (although theta was trained on it, so it looks slightly
better than other safe rows would), and if the candidates are clean, no larger share of them than of the safe rows has
low logits: F(t) <= S(t), the empirical distribution functions of the two sets. Let a share c of the candidates be
unsafe. Even if all of these are below t, F(t) <= c + (1 - c) S(t), so at every t

    c >= (F(t) - S(t)) / (1 - S(t))                                                          (6)

and the largest of these bounds is the estimate. It is exact if some t has all unsafe rows below it and few others. It
is too low if unsafe rows are among safe ones, and too high if a benign kind of row that the safe set lacks is among
them, or by chance, because the maximum is taken; the lower end of the interval is a bound. The upper end assumes only
that no unsafe row is above the lowest LOW_SHARE of the safe rows: every candidate below may be unsafe.

Source: Blanchard, Lee, Scott (JMLR 2010), "Semi-supervised novelty detection", on the proportion of novelties;
Meinshausen and Rice (Annals of Statistics 2006) for a bound of this form.
"""

from __future__ import annotations

import numpy as np

from sealtune.core.string_array import FloatArray
from sealtune.core.types import Contamination

Z_THRESHOLD = 2.75
"""Standard errors by which low candidates must exceed low safe rows somewhere: one in 20 to 80 clean sets does."""

LOW_SHARE = 0.2
"""Share of the safe set up to which a logit counts as low: above it, (6) is a small difference of large numbers."""

MAX_THRESHOLDS = 5_000
"""Logits that serve as thresholds; of more, as many quantiles."""

MIN_SAFE_ROWS = 8
"""Safe rows below which nothing is estimated: a single high one would make all others look unsafe."""


def estimate(logits: FloatArray, safe_logits: FloatArray) -> Contamination:
    """The largest bound (6), for the logits of the candidates (N,) and of the safe rows (M,); NaN entries are ignored.

    It is ``significant`` if the excess F - S is Z_THRESHOLD standard errors somewhere. The interval goes from the
    largest bound less as many standard errors to the share of the candidates among the LOW_SHARE lowest safe rows plus
    as many.
    """
    logits, safe_logits = (np.sort(values[~np.isnan(values)]) for values in (logits, safe_logits))
    n, m = len(logits), len(safe_logits)
    if n < 2 or m < MIN_SAFE_ROWS:
        return Contamination(0.0, 0.0, 1.0, significant=False)
    thresholds = _thresholds(logits)
    # Both start at 0: the threshold below all logits.
    cdf, safe_cdf = (np.append(0, _cdf(thresholds, values)) for values in (logits, safe_logits))
    low = safe_cdf <= LOW_SHARE
    cdf, safe_cdf = cdf[low], safe_cdf[low]
    excess = cdf - safe_cdf
    variance, safe_variance = _variance(cdf, n) / n, _variance(safe_cdf, m) / m
    pooled = (cdf * n + safe_cdf * m) / (n + m)
    null_error = np.sqrt(_variance(pooled, n + m) * (1 / n + 1 / m))
    lower = excess - Z_THRESHOLD * np.sqrt(variance + safe_variance)
    share, at_least = (float(np.clip(bound / (1 - safe_cdf), 0, 1).max()) for bound in (excess, lower))
    at_most = min(1.0, float(cdf[-1] + Z_THRESHOLD * np.sqrt(variance[-1])))
    return Contamination(share, at_least, at_most, significant=bool((excess >= Z_THRESHOLD * null_error).any()))


def _thresholds(logits: FloatArray) -> FloatArray:
    """The sorted logits, or MAX_THRESHOLDS quantiles of them."""
    if len(logits) <= MAX_THRESHOLDS:
        return logits
    quantiles: FloatArray = np.quantile(logits, np.linspace(0, 1, MAX_THRESHOLDS), method="inverted_cdf")
    return quantiles


def _cdf(thresholds: FloatArray, values: FloatArray) -> FloatArray:
    """The share of the sorted values that are at most each threshold."""
    share: FloatArray = np.searchsorted(values, thresholds, side="right") / len(values)
    return share


def _variance(share: FloatArray, count: int) -> FloatArray:
    """p (1 - p) of a share p of ``count``, with one row added on each side, so that no share is certain."""
    share = (share * count + 1) / (count + 2)
    variance: FloatArray = share * (1 - share)
    return variance
