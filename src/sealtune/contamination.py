"""How many of the rows are unsafe? An estimate from the margins of a cross-fitted scorer, with an interval.

A margin is a sum of many features of a row, so those of one kind of rows are about normal. Unsafe rows, where there are
enough, make a second, lower group: the lower of two normals with one deviation. Safe rows are taken out of it at the
rate at which the safe set falls into it, and unsafe rows that lie with the others are added at the rate of the lower
normal; that is the estimate. It leans high where benign rows that the safe set lacks lie with the unsafe ones.

Clean rows too fall into two groups a little. So a group counts only where two normals explain the margins much better
than one, stand far enough apart, and hold few safe rows; else the estimate is 0, the interval says what may be there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sealtune.records import Contamination, FloatArray

EVIDENCE = 10.0
"""Difference of BIC from which a second group is believed: "very strong" after Kass and Raftery (1995), section 3.2."""

APART = 2.0
"""Distance of the two means, in deviations, below which their sum has a single peak (Ashman's D)."""

MOSTLY_UNSAFE = 0.25
"""Share of the safe set in the lower group above which it is a kind of rows, not of harm."""

DROP = 1.92
"""Log-likelihood that a share may lack and still lie in its 95 % interval: half the quantile of chi squared."""

HIGHEST = 0.6
"""Share beyond which the lower group is no longer sought: who is in the majority cannot be told from margins."""

ENOUGH = 5_000
"""Margins that are fitted; of more, as many quantiles."""

STARTS = (0.05, 0.15, 0.3, 0.5)


class Pair(NamedTuple):
    """Two normals with one deviation; ``share`` is the weight of the lower."""

    share: float
    low: float
    high: float
    deviation: float
    log_likelihood: float

    def membership(self, margin: FloatArray) -> FloatArray:
        """Chance of each margin (N,) to belong to the lower normal."""
        odds = np.log1p(-self.share) - np.log(self.share)
        odds = odds + _log_normal(margin, self.high, self.deviation) - _log_normal(margin, self.low, self.deviation)
        chance: FloatArray = 1 / (1 + np.exp(np.clip(odds, -700, 700)))
        return chance

    def lower_share(self) -> float:
        """Mean membership of what the lower normal itself makes: 1 where the two do not overlap."""
        places, weights = np.polynomial.hermite_e.hermegauss(64)
        return float(weights @ self.membership(self.low + self.deviation * places) / weights.sum())


def estimate(margin: FloatArray, safe_margin: FloatArray) -> Contamination:
    """The share of rows in a separate group of low margins (N,) to which few of the safe rows' (M,) belong.

    The interval is the one of profile likelihood for the whole group, its lower end without safe rows.

    Source: mixture proportions after Pearson (1894); EM for a common variance: McLachlan and Peel (2000), section 3.8;
    counts adjusted by the rates of both kinds: Forman (2008), "Quantifying counts and costs via classification", with
    chances in place of yes and no: Bella et al. (ICDM 2010), "Quantification via probability estimators".
    """
    margin = margin[~np.isnan(margin)]  # rows that could not be judged
    if len(margin) < 2 or not len(safe_margin) or float(np.ptp(margin)) == 0:
        return Contamination(0.0, 0.0, 1.0, False)
    if len(margin) > ENOUGH:
        margin = np.quantile(margin, np.linspace(0, 1, ENOUGH))
    safe_margin = (safe_margin - margin.mean()) / margin.std()
    margin = (margin - margin.mean()) / margin.std()
    pair = fit_pair(margin)
    low, high = interval(margin, pair)
    if not is_separate(margin, safe_margin, pair):
        return Contamination(0.0, 0.0, high, False)
    safe_share = float(pair.membership(safe_margin).mean())
    share = adjusted(pair.share, safe_share, pair.lower_share())
    low = adjusted(low, safe_share, 1.0)  # as if no unsafe row lay with the others
    return Contamination(share, low, max(high, share), True)


def adjusted(of_all: float, of_safe: float, of_unsafe: float) -> float:
    """The share of unsafe rows, where these shares of all, safe and unsafe rows lie in the lower group.

    of_all = share * of_unsafe + (1 - share) * of_safe, solved for share and kept in [0, 1].
    """
    return min(1.0, max(0.0, (of_all - of_safe) / max(of_unsafe - of_safe, 1e-9)))


def interval(margin: FloatArray, pair: Pair) -> tuple[float, float]:
    """Shares of the lower normal whose likelihood is not much below the best, from the least to the most."""
    likely = [pair.share]
    for share in np.linspace(0.01, HIGHEST, 40):
        fits = [_climb(margin, start, 100, fixed=float(share)) for start in (float(share), pair.share)]
        if max(fit.log_likelihood for fit in fits) > pair.log_likelihood - DROP:
            likely.append(float(share))
    return min(likely), max(likely)


def is_separate(margin: FloatArray, safe_margin: FloatArray, pair: Pair) -> bool:
    """Whether the lower group is one of its own, and not of safe rows."""
    apart = (pair.high - pair.low) / pair.deviation > APART
    few_safe = float(pair.membership(safe_margin).mean()) < MOSTLY_UNSAFE
    return evidence(margin, pair) > EVIDENCE and apart and few_safe


def evidence(margin: FloatArray, pair: Pair) -> float:
    """BIC of one normal minus BIC of the pair: above 0 where the pair explains more than its two parameters cost."""
    one = -len(margin) / 2 * (np.log(2 * np.pi * margin.var()) + 1)
    return float(2 * (pair.log_likelihood - one) - 2 * np.log(len(margin)))


def fit_pair(margin: FloatArray, starts: tuple[float, ...] = STARTS, rounds: int = 300) -> Pair:
    """The likeliest of the pairs that EM reaches from these shares of the lower normal."""
    return max((_climb(margin, share, rounds) for share in starts), key=lambda pair: pair.log_likelihood)


def _climb(margin: FloatArray, share: float, rounds: int, fixed: float | None = None) -> Pair:
    """EM from the lowest ``share`` of the rows; the share of the pair stays ``fixed`` where that is given."""
    cut = np.quantile(margin, np.clip(share, 1 / len(margin), 1 - 1 / len(margin)))
    lower = (margin <= cut).astype(float)  # (N,), the chance that a row belongs to the lower normal
    before = -np.inf
    for _ in range(rounds):
        share = float(lower.mean().clip(1e-9, 1 - 1e-9)) if fixed is None else fixed
        low = float(lower @ margin / max(lower.sum(), 1e-9))
        high = float((1 - lower) @ margin / max((1 - lower).sum(), 1e-9))
        variance = (lower @ (margin - low) ** 2 + (1 - lower) @ (margin - high) ** 2) / len(margin)
        deviation = float(np.sqrt(max(variance, 1e-6)))
        logs = np.stack([np.log(share) + _log_normal(margin, low, deviation),
                         np.log1p(-share) + _log_normal(margin, high, deviation)])  # fmt: skip
        whole = np.logaddexp(*logs)
        lower = np.exp(logs[0] - whole)
        if whole.sum() - before < 1e-6 * len(margin):
            break
        before = whole.sum()
    pair = Pair(share, low, high, deviation, float(whole.sum()))
    return pair if low <= high or fixed else Pair(1 - share, high, low, deviation, pair.log_likelihood)


def _log_normal(x: FloatArray, mean: float, deviation: float) -> FloatArray:
    found: FloatArray = -(((x - mean) / deviation) ** 2) / 2 - np.log(deviation) - np.log(2 * np.pi) / 2
    return found
