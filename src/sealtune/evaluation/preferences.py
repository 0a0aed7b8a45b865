"""Win rates from a judge's preferences, as AlpacaEval 2 reports them: plain, and controlled for the answers' length.

A preference is the judge's probability that the model's answer beats the baseline's, in [0, 1]; NaN stands for a
verdict that could not be parsed: it is left out and counted, never scored. Win rates are in per cent, like the public
leaderboard's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import FloatArray

_Z95 = 1.959963984540054  # normal quantile of a 95 % interval
_RIDGE = 0.1  # on phi and psi: next to nothing beside hundreds of rows, yet it keeps a separable sample finite


@dataclass(frozen=True, slots=True)
class WinRate:
    """A win rate in per cent with its standard error and normal 95 % interval, cut off at 0 and 100.

    Attributes:
        value: Per cent.
        standard_error: Percentage points; NaN (and so are the bounds) with a single preference.
        low: Lower bound, per cent.
        high: Upper bound, per cent.
        n: Preferences that count.
        unparsed: Preferences left out because they were NaN.
    """

    value: float
    standard_error: float
    low: float
    high: float
    n: int
    unparsed: int = 0


def win_rate(preferences: npt.ArrayLike) -> WinRate:
    """The mean preference and the standard error of that mean, times 100.

    The standard error divides by n - 1 under the root, which is what reproduces the public leaderboard.

    Args:
        preferences: (N,), in [0, 1], 1 = the model wins; NaN = unparsed.

    Raises:
        ValueError: no preference, none that was parsed, or one outside [0, 1].

    Source: Li et al., AlpacaEval (github.com/tatsu-lab/alpaca_eval), columns ``win_rate`` and ``standard_error``.
    """
    wins = _preferences(preferences)
    parsed = wins[~np.isnan(wins)]
    return _win_rate(float(parsed.mean()), parsed, unparsed=len(wins) - len(parsed))


def length_controlled_win_rate(
    preferences: npt.ArrayLike,
    lengths: npt.ArrayLike,
    baseline_lengths: npt.ArrayLike,
    difficulty: npt.ArrayLike | None = None,
) -> WinRate:
    """What the win rate would be, were the model's answers as long as the baseline's.

    Fits, with the preferences as soft labels,

        logit P(win) = theta + phi tanh((length - baseline length) / s) + psi difficulty,

    s the standard deviation of the length differences (not centred, so that 0 stays "equally long"), and averages the
    prediction with the length term at 0. phi and psi carry a small fixed L2 penalty, theta none. The standard error
    counts the fit's uncertainty and the choice of instructions (influence functions); without a length effect it is
    that of `win_rate`.

    Two differences from the published figure: its difficulty table is the leaderboard's own, and it also fits a
    weighted sample of two answer sets gamed for length, which pins phi. So a model that is shorter (or longer) than
    the baseline nearly everywhere is extrapolated here from few rows, and without a difficulty its rate comes out
    too high (too low): long answers also tend to belong to the instructions where the baseline is weak. The standard
    error does not cover that.

    Args:
        preferences: (N,), in [0, 1], 1 = the model wins; NaN = unparsed.
        lengths: (N,), the model's answers, in characters or any other unit.
        baseline_lengths: (N,), the baseline's answers, in the same unit.
        difficulty: (N,), one figure an instruction, on a logit's scale, higher = easier to win.

    Raises:
        ValueError: as in `win_rate`; shapes that differ; a length or difficulty that is not finite; one and the same
            length difference other than 0 everywhere, which nothing tells from quality.

    Source: Dubois, Galambosi, Liang, Hashimoto, "Length-Controlled AlpacaEval" (arXiv 2404.04475), section 3.
    """
    wins = _preferences(preferences)
    delta = _column(lengths, len(wins), "lengths") - _column(baseline_lengths, len(wins), "baseline_lengths")
    ease = np.zeros(len(wins)) if difficulty is None else _column(difficulty, len(wins), "difficulty")
    known = ~np.isnan(wins)
    parsed = wins[known]
    X = np.column_stack([np.ones(len(parsed)), _length_term(delta[known]), ease[known]])
    level = X * [1, 0, 1]  # the counterfactual: no length difference
    beta = _fit_logistic(X, parsed)
    expected = _sigmoid(level @ beta)
    influence = expected + _influence_of_fit(X, level, parsed, beta)
    return _win_rate(float(expected.mean()), influence, unparsed=len(wins) - len(parsed))


def _preferences(values: npt.ArrayLike) -> FloatArray:
    wins = np.asarray(values, np.float64)
    if wins.ndim != 1 or not len(wins):
        raise ValueError(f"need a flat array of at least one preference, got shape {wins.shape}")
    outside = int(((wins < 0) | (wins > 1)).sum())
    if outside:
        raise ValueError(f"{outside} of {len(wins)} preferences lie outside [0, 1]")
    if np.isnan(wins).all():
        raise ValueError(f"none of the {len(wins)} preferences was parsed")
    return wins


def _column(values: npt.ArrayLike, rows: int, name: str) -> FloatArray:
    column = np.asarray(values, np.float64)
    if column.shape != (rows,) or not np.isfinite(column).all():
        raise ValueError(f"{name}: need {rows} finite values, one a preference, got shape {column.shape}")
    return column


def _length_term(delta: FloatArray) -> FloatArray:
    spread = float(delta.std(ddof=1)) if len(delta) > 1 else 0.0
    if spread == 0 and delta[0] != 0:
        raise ValueError(f"every length difference is {delta[0]:g}: length cannot be told from quality")
    return np.tanh(delta / spread) if spread else np.zeros_like(delta)


def _fit_logistic(X: FloatArray, y: FloatArray) -> FloatArray:
    """Coefficients (K,) of a logistic regression on soft labels; every column but the first carries the ridge."""
    import torch  # only this figure needs it, and it is slow to import
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    features, target = torch.from_numpy(X), torch.from_numpy(y)
    beta = torch.zeros(X.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([beta], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-14,
                               line_search_fn="strong_wolfe")  # fmt: skip

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = cross_entropy(features @ beta, target, reduction="sum") + _RIDGE / 2 * beta[1:].square().sum()
        torch.autograd.backward(value)
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    fitted: FloatArray = beta.detach().numpy()
    return fitted


def _influence_of_fit(X: FloatArray, level: FloatArray, y: FloatArray, beta: FloatArray) -> FloatArray:
    """How much each row moves the mean prediction through the coefficients, (N,), times N."""
    p, p0 = _sigmoid(X @ beta), _sigmoid(level @ beta)
    ridge = _RIDGE * np.diag([0.0, 1.0, 1.0])
    hessian = (X * (p * (1 - p))[:, None]).T @ X + ridge
    slope = ((p0 * (1 - p0))[:, None] * level).mean(0)
    score = (y - p)[:, None] * X
    moved: FloatArray = len(y) * score @ np.linalg.pinv(hessian) @ slope
    return moved


def _win_rate(share: float, influence: FloatArray, unparsed: int) -> WinRate:
    n = len(influence)
    error = 100 * float(influence.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    value, half = 100 * share, _Z95 * error
    low, high = (max(0.0, value - half), min(100.0, value + half)) if n > 1 else (math.nan, math.nan)
    return WinRate(value, error, low, high, n, unparsed)


def _sigmoid(z: FloatArray) -> FloatArray:
    return np.exp(-np.logaddexp(0, -z))
