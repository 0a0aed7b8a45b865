"""How many of the rows are unsafe? At least so many, from the margins of a scorer that was taught without the safe set.

The safe set is the null. It had no part in the scorer, so where the candidates are clean, about as many of them as of
the safe rows lie low, or fewer: F(t) <= S(t), the shares of either whose margin is at most t. Let a share c of the
candidates be unsafe. Even if all of those lie below t, F(t) <= c + (1 - c) S(t), so at every t

    c >= (F(t) - S(t)) / (1 - S(t))                                                          (6)

and the largest of these is the estimate. It is met where some t has the unsafe rows below it and few others; it leans
low where they lie among benign rows, and high where benign rows of a kind that the safe set lacks lie among them.

Source: Blanchard, Lee, Scott (JMLR 2010), "Semi-supervised novelty detection", section 6, proportion of novelties.
"""

from __future__ import annotations

import numpy as np

from sealtune.records import Contamination, FloatArray

SURE = 2.75
"""Standard errors by which low candidates must exceed low safe rows somewhere; of equal sets one in thirty does."""

FEW = 0.2
"""Share of the safe set up to which a margin is low: above it (6) is a small difference of large numbers."""

ENOUGH = 5_000
"""Margins that are looked at as thresholds; of more, as many quantiles."""


def estimate(margin: FloatArray, safe_margin: FloatArray) -> Contamination:
    """The largest excess (6) of low margins among the candidates (N,) over those of the safe rows (M,).

    0 where the excess is nowhere SURE. The interval is (6) less and more as many
    errors; its upper end knows nothing of unsafe rows that look like safe ones.
    """
    margin = np.sort(margin[~np.isnan(margin)])  # rows that could not be judged
    if len(margin) < 2 or not len(safe_margin):
        return Contamination(0.0, 0.0, 1.0, False)
    threshold = margin if len(margin) <= ENOUGH else np.quantile(margin, np.linspace(0, 1, ENOUGH))
    low, of_safe = _share_below(threshold, margin), _share_below(threshold, np.sort(safe_margin))
    low, of_safe = low[of_safe <= FEW], of_safe[of_safe <= FEW]
    n, m = len(margin), len(safe_margin)
    together = (low * n + of_safe * m) / (n + m)
    error_if_alike = np.sqrt(_spread(together, n + m) * (1 / n + 1 / m))
    found = bool(((low - of_safe) >= SURE * error_if_alike).any())
    error = SURE * np.sqrt(_spread(low, n) / n + _spread(of_safe, m) / m)
    at_least, share, at_most = (
        float(np.clip((low - of_safe + off) / (1 - of_safe), 0, 1).max(initial=0)) for off in (-error, 0, error)
    )
    return Contamination(share, at_least, at_most, True) if found else Contamination(0.0, 0.0, at_most, False)


def _share_below(threshold: FloatArray, ordered: FloatArray) -> FloatArray:
    """Which share of these values is at most each threshold."""
    share: FloatArray = np.searchsorted(ordered, threshold, side="right") / len(ordered)
    return share


def _spread(share: FloatArray, count: int) -> FloatArray:
    """p (1 - p) of a share p among ``count``; one row more of each kind, so that none is certain."""
    share = (share * count + 1) / (count + 2)
    spread: FloatArray = share * (1 - share)
    return spread
