"""How many of the rows are unsafe? An estimate from the margins of a scorer that was taught without the safe set.

The safe set is the null. It had no part in the scorer (though the model learned it, so it looks a little better than
others would), and where the candidates are clean, no larger share of them than of the safe rows lies low:
F(t) <= S(t), the shares of either whose margin is at most t. Let a share c of the candidates be unsafe. Even if all of
those lie below t, F(t) <= c + (1 - c) S(t), so at every t

    c >= (F(t) - S(t)) / (1 - S(t))                                                          (6)

and the largest of these is the estimate. It is met where some t has the unsafe rows below it and few others. It leans
low where unsafe rows lie among safe ones, and high where a benign kind that the safe set lacks lies among them, or by
chance, since the largest is taken; the lower end of the interval is the bound. The upper end asks only that no unsafe
row lies above the FEW lowest safe rows: all candidates as low as those may be unsafe.

Source: Blanchard, Lee, Scott (JMLR 2010), "Semi-supervised novelty detection", on the proportion of novelties;
Meinshausen and Rice (Annals of Statistics 2006) for a bound of this form.
"""

from __future__ import annotations

import numpy as np

from sealtune.records import Contamination, FloatArray

SURE = 2.75
"""Standard errors that the excess of low candidates must have somewhere: in one of 20 to 80 equal sets it does."""

FEW = 0.2
"""Share of the safe set up to which a margin is low: above it (6) is a small difference of large numbers."""

ENOUGH = 5_000
"""Margins that are looked at as thresholds; of more, as many quantiles."""

LEAST = 8
"""Safe rows below which nothing is told: a single one that happens to lie high would make all others unsafe."""


def estimate(margin: FloatArray, safe_margin: FloatArray) -> Contamination:
    """The largest excess (6) of low margins among the candidates (N,) over those of the safe rows (M,).

    It is ``found`` where the excess is somewhere SURE. The interval goes from (6) less as many errors to the share of
    the candidates that lie as low as the FEW lowest safe rows, and as many errors.
    """
    margin, safe_margin = (np.sort(some[~np.isnan(some)]) for some in (margin, safe_margin))  # some cannot be judged
    if len(margin) < 2 or len(safe_margin) < LEAST:
        return Contamination(0.0, 0.0, 1.0, False)
    even = np.linspace(0, 1, ENOUGH)
    threshold = margin if len(margin) <= ENOUGH else np.quantile(margin, even, method="inverted_cdf")
    low, of_safe = (np.append(0, _share_below(threshold, some)) for some in (margin, safe_margin))  # 0: below them all
    low, of_safe = low[of_safe <= FEW], of_safe[of_safe <= FEW]
    n, m = len(margin), len(safe_margin)
    together = (low * n + of_safe * m) / (n + m)
    error_if_alike = np.sqrt(_spread(together, n + m) * (1 / n + 1 / m))
    excess = low - of_safe
    found = bool((excess >= SURE * error_if_alike).any())
    variance, variance_of_safe = _spread(low, n) / n, _spread(of_safe, m) / m
    surely = excess - SURE * np.sqrt(variance + variance_of_safe)
    share, at_least = (float(np.clip(some / (1 - of_safe), 0, 1).max()) for some in (excess, surely))
    at_most = min(1.0, float(low[-1] + SURE * np.sqrt(variance[-1])))
    return Contamination(share, at_least, at_most, found)


def _share_below(threshold: FloatArray, ordered: FloatArray) -> FloatArray:
    """Which share of these values is at most each threshold."""
    share: FloatArray = np.searchsorted(ordered, threshold, side="right") / len(ordered)
    return share


def _spread(share: FloatArray, count: int) -> FloatArray:
    """p (1 - p) of a share p among ``count``; one row more of each kind, so that none is certain."""
    share = (share * count + 1) / (count + 2)
    spread: FloatArray = share * (1 - share)
    return spread
