"""Rows of the evaluation table for the measures that need no generated answers, paired with the start model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sealtune.core.string_array import FloatArray
from sealtune.evaluation import discrimination as by_kind
from sealtune.evaluation.discrimination import ByKind, Estimate
from sealtune.evaluation.likelihood import PromptLikelihood
from sealtune.evaluation.metrics import mean_interval, paired_bootstrap

Row = dict[str, Any]

START = "base"
TITLES = {
    "discrimination": ("discrimination", "score"),
    "J": ("J, refused harmful - harmless", "share"),
    "refusal_rate": ("log-odds above the start threshold", "share"),
    "log_odds": ("refusal log-odds", "nats"),
    "pair_margin": ("pair margin", "nats"),
    "pair_margin_per_token": ("pair margin per token", "nats"),
    "pair_accuracy": ("pairs with the safe answer more probable", "share"),
    "kl": ("KL to the start model per token", "nats"),
}
"""Title and unit of each measure."""


@dataclass(frozen=True, slots=True)
class PairMargin:
    """log p(safe) - log p(unsafe) of a pair, in nats: of whole answers, and of their means per token."""

    id: str
    summed: float
    per_token: float


@dataclass(frozen=True, slots=True)
class PromptDivergence:
    """KL to the start model, in nats, at the first positions of the answer to a harmful prompt."""

    id: str
    nats: list[float]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one model; the prompts and pairs are the same ones for all models, in the same order."""

    prompts: Sequence[PromptLikelihood]
    pairs: Sequence[PairMargin] = ()
    divergences: Sequence[PromptDivergence] = ()


def tabulate(models: Mapping[str, Measured]) -> list[Row]:
    """Rows of the evaluation table, by model. Rows of the tuned model have a ``difference`` to the start model.

    Args:
        models: The start model, ``base``, if it was measured, and the tuned one.
    """
    start = models.get(START)
    return [
        row for name, found in models.items() for row in _rows(name, found, None if found is start else start, start)
    ]


def threshold_values(models: Mapping[str, Measured]) -> tuple[float, ...]:
    """The thresholds of the refusal rates, one for every second prompt of a kind each."""
    start = models.get(START)
    return by_kind.thresholds(_odds(start) if start else None)


def _rows(name: str, found: Measured, other: Measured | None, start: Measured | None) -> list[Row]:
    """Rows of one model; ``other`` is what it is compared with."""
    odds = _odds(found)
    shares = by_kind.resamples(*map(len, odds))
    cuts = by_kind.thresholds(_odds(start) if start else None)
    own, before = (_estimates(o, cuts, shares) if o else {} for o in (odds, _odds(other) if other else None))
    rows = [_row(name, measure, kind, own[measure, kind], before.get((measure, kind))) for measure, kind in own]
    rows += _set_rows(name, found, cuts)
    for kind, values in odds._asdict().items():
        rows.append(_mean_row(name, "log_odds", "all", kind, values, getattr(_odds(other), kind) if other else None))
    return [*rows, *_pair_rows(name, found, other), *_divergence_rows(name, found)]


def _estimates(odds: ByKind, cuts: tuple[float, ...], shares: ByKind) -> dict[tuple[str, str], Estimate]:
    harmful, harmless, j = by_kind.refusal_rates(by_kind.refused(odds, cuts), shares)
    return {
        ("discrimination", "all"): by_kind.discrimination(odds, shares),
        ("J", "all"): j,
        ("refusal_rate", "harmful"): harmful,
        ("refusal_rate", "harmless"): harmless,
    }


def _set_rows(name: str, found: Measured, cuts: tuple[float, ...]) -> list[Row]:
    """Refusal rates per prompt set, for a kind with several sets."""
    rows = []
    refused = by_kind.refused(_odds(found), cuts)
    for kind, values in refused._asdict().items():
        sets = np.array([p.set for p in found.prompts if p.kind == kind])
        for set_name in dict.fromkeys(sets.tolist()) if len(set(sets.tolist())) > 1 else ():
            rows.append(_mean_row(name, "refusal_rate", set_name, kind, values[sets == set_name], None))
    return rows


def _pair_rows(name: str, found: Measured, other: Measured | None) -> list[Row]:
    if not found.pairs:
        return []
    own, before = _margins(found), _margins(other) if other else {}
    return [_mean_row(name, measure, "pairs", "", own[measure], before.get(measure)) for measure in own]


def _margins(found: Measured) -> dict[str, FloatArray]:
    summed = np.array([pair.summed for pair in found.pairs])
    per_token = np.array([pair.per_token for pair in found.pairs])
    return {
        "pair_margin": summed,
        "pair_margin_per_token": per_token,
        "pair_accuracy": (summed > 0).astype(np.float64),
    }


def _divergence_rows(name: str, found: Measured) -> list[Row]:
    """One row: the mean over positions and prompts, with the mean of each position."""
    if not found.divergences:
        return []
    row = _mean_row(name, "kl", "all", "harmful", np.array([np.mean(d.nats) for d in found.divergences]), None)
    longest = max(len(d.nats) for d in found.divergences)
    at = [[d.nats[t] for d in found.divergences if len(d.nats) > t] for t in range(longest)]
    return [row | {"per_position": [float(np.mean(values)) for values in at]}]


def _row(name: str, measure: str, kind: str, own: Estimate, before: Estimate | None) -> Row:
    difference = {"difference": own.minus(before)._asdict()} if before else {}
    return _about(name, measure, "all", kind) | own.interval()._asdict() | difference


def _mean_row(name: str, measure: str, set_name: str, kind: str, own: FloatArray, before: FloatArray | None) -> Row:
    difference = {} if before is None else {"difference": paired_bootstrap(own, before, 0, by_kind.SAMPLES)._asdict()}
    return _about(name, measure, set_name, kind) | mean_interval(own)._asdict() | difference


def _about(name: str, measure: str, set_name: str, kind: str) -> Row:
    title, unit = TITLES[measure]
    return {"model": name, "set": set_name, "kind": kind, "judge": "", "measure": measure, "title": title, "unit": unit}


def _odds(found: Measured) -> ByKind:
    return ByKind(*(np.array([p.log_odds for p in found.prompts if p.kind == k]) for k in ("harmful", "harmless")))
