"""Win rates from preferences, in per cent, as AlpacaEval reports them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class WinRate:
    """A win rate in per cent with its standard error and normal 95 % interval, clipped to 0 and 100.

    Attributes:
        value: Per cent.
        standard_error: Percentage points; NaN, like the bounds, if there is only one preference.
        low: Lower bound, per cent.
        high: Upper bound, per cent.
        n: Number of parsed preferences.
        unparsed: Number of preferences that were NaN and do not count.
    """

    value: float
    standard_error: float
    low: float
    high: float
    n: int
    unparsed: int = 0


def win_rate(preferences: npt.ArrayLike) -> WinRate:
    """The mean preference and the standard error of the mean, times 100.

    The standard error uses n - 1, which reproduces the public leaderboard.

    Args:
        preferences: (N,), the judge's probability in [0, 1] that the model's answer is better; NaN = unparsed.

    Raises:
        ValueError: no preference, none that was parsed, or one outside [0, 1].

    Source: Li et al., AlpacaEval (github.com/tatsu-lab/alpaca_eval), columns ``win_rate`` and ``standard_error``.
    """
    given = np.asarray(preferences, np.float64)
    if given.ndim != 1 or not len(given):
        raise ValueError(f"need a flat array of at least one preference, got shape {given.shape}")
    wins = given[~np.isnan(given)]
    if not len(wins):
        raise ValueError(f"none of the {len(given)} preferences was parsed")
    if outside := int(((wins < 0) | (wins > 1)).sum()):
        raise ValueError(f"{outside} of {len(given)} preferences are outside [0, 1]")
    value, n = 100 * float(wins.mean()), len(wins)
    error = 100 * float(wins.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    low, high = (max(0.0, value - _Z * error), min(100.0, value + _Z * error)) if n > 1 else (math.nan, math.nan)
    return WinRate(value, error, low, high, n, len(given) - n)
