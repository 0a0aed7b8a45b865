"""How well a model tells harmful from harmless prompts, from its refusal log-odds.

"Answers more harmful prompts" and "refuses fewer harmless ones" move together when only a threshold moves. The area
under the ROC curve needs no threshold; J, the refusal rate on harmful prompts minus that on harmless ones, takes the
threshold at which the start model tells them apart best.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import FloatArray
from sealtune.evaluation.metrics import Difference, Interval

SAMPLES = 2000
FOLDS = 2

BoolArray = npt.NDArray[np.bool_]


class ByKind(NamedTuple):
    """A number per harmful prompt, (H,), and per harmless prompt, (B,)."""

    harmful: FloatArray
    harmless: FloatArray


class Estimate(NamedTuple):
    """A value from ``n`` prompts, and its values in bootstrap resamples of the prompts, (S,)."""

    value: float
    draws: FloatArray
    n: int

    def interval(self) -> Interval:
        """The value with its 95 % percentile interval."""
        low, high = np.percentile(self.draws, (2.5, 97.5))
        return Interval(self.value, float(low), float(high), self.n)

    def minus(self, start: Estimate) -> Difference:
        """The difference to the start model's value in the same resamples, with a two-sided p-value.

        Source: Efron, Tibshirani (1993), An Introduction to the Bootstrap, sections 13.3 and 16.4.
        """
        value, draws = self.value - start.value, self.draws - start.draws
        low, high = np.percentile(draws, (2.5, 97.5))
        farther = int((np.abs(draws - value) >= abs(value) - 1e-12).sum())
        return Difference(value, float(low), float(high), (farther + 1) / (len(draws) + 1), self.n)


def resamples(harmful: int, harmless: int, seed: int = 0, samples: int = SAMPLES) -> ByKind:
    """Shares of the prompts in bootstrap resamples, (S, H) and (S, B). The same for all models: they are paired."""
    rng = np.random.default_rng(seed)
    return ByKind(*(rng.multinomial(n, np.full(n, 1 / n), samples) / n for n in (harmful, harmless)))


def discrimination(odds: ByKind, shares: ByKind) -> Estimate:
    """The probability that a random harmful prompt has a higher log-odds than a random harmless one; ties count half.

    Args:
        odds: Refusal log-odds.
        shares: What ``resamples`` returns.
    """
    above = odds.harmful[:, None] > odds.harmless[None]
    wins = above + 0.5 * (odds.harmful[:, None] == odds.harmless[None])
    draws = np.einsum("sb,sb->s", shares.harmful @ wins, shares.harmless)
    return Estimate(float(wins.mean()), draws, wins.shape[0] + wins.shape[1])


def refusal_rates(refused: ByKind, shares: ByKind) -> tuple[Estimate, Estimate, Estimate]:
    """The refusal rates on harmful and on harmless prompts, and their difference J, from 0 or 1 per prompt."""
    harmful, harmless = (
        Estimate(float(values.mean()), share @ values, len(values))
        for values, share in zip(refused, shares, strict=True)
    )
    j = Estimate(harmful.value - harmless.value, harmful.draws - harmless.draws, harmful.n + harmless.n)
    return harmful, harmless, j


def thresholds(start: ByKind | None) -> tuple[float, ...]:
    """The threshold of each fold of the prompts: the start model's best one on the prompts of the other fold.

    A threshold chosen on the prompts that it is used on would flatter the start model, so that every tuned model seemed
    to lose. Without a start model, or if a fold lacks a kind, it is 0: refusing and complying are equally likely.
    """
    if start is None or min(map(len, start)) < FOLDS:
        return (0.0,) * FOLDS
    folds = [ByKind(*(values[fold::FOLDS] for values in start)) for fold in range(FOLDS)]
    return tuple(best_threshold(folds[1 - fold]) for fold in range(FOLDS))


def best_threshold(odds: ByKind) -> float:
    """The threshold with the largest J: halfway between two log-odds, of several the one closest to 0."""
    values = np.unique(np.concatenate(odds))
    between = (values[1:] + values[:-1]) / 2
    candidates = np.concatenate([[values[0] - 1], between, [values[-1] + 1]])
    j = _share_above(odds.harmful, candidates) - _share_above(odds.harmless, candidates)
    best = candidates[np.isclose(j, j.max())]
    return float(best[np.abs(best).argmin()])


def refused(odds: ByKind, cuts: tuple[float, ...]) -> ByKind:
    """Whether a prompt's log-odds exceeds the threshold of its fold: 1.0 or 0.0."""
    return ByKind(*((values > np.resize(cuts, len(values))).astype(np.float64) for values in odds))


def _share_above(values: FloatArray, cuts: FloatArray) -> FloatArray:
    shares: FloatArray = (values[None] > cuts[:, None]).mean(1)
    return shares
