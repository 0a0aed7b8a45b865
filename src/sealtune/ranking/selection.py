"""From scores to the rows that are kept."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from sealtune.core.config import SelectConfig
from sealtune.core.errors import UserError
from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Contamination, Decision, Rejections, Scores, Selection
from sealtune.ranking.contamination import estimate

MIN_DROPPED = 0.02
"""Share that ``keep_ratio: auto`` drops if the estimate is not significant: a few rows at the bottom may be unsafe."""

MAX_DROPPED = 0.75
"""Share from which ``keep_ratio: auto`` stops: candidates and safe set may simply be of different kinds."""

BoolArray = npt.NDArray[np.bool_]
NO_DECISIONS: Mapping[str, Decision] = MappingProxyType({})

BORDERLINE = 2.0
"""Standard errors around the threshold within which a row is borderline."""


def select(
    scores: Scores, settings: SelectConfig, decisions: Mapping[str, Decision] = NO_DECISIONS, unit: str = "rows"
) -> Selection:
    """The top ``keep_ratio`` of the rows, or those whose score is at least ``threshold``; kept ids in input order.

    Ties are broken by id, so neither the order of the rows nor the sort can change what is kept. Rows that a person
    kept or dropped are kept or dropped whatever their score. With ``keep_ratio`` the others fill what is left of that
    share of all rows; with ``auto`` only the others are estimated, and that share of them is dropped. ``unit`` names
    what the scores are of.

    Raises:
        UserError: nothing would be kept, or ``keep_ratio`` is ``auto`` and the ranker gives nothing to estimate from.
    """
    ids, order = StringArray.of(scores.ids), best_first(scores)
    wanted, unwanted = (ids.isin(decided(decisions, verb)) for verb in ("keep", "drop"))
    open_rows = order[~(wanted | unwanted)[order]]
    count, reason = _places(scores, settings, open_rows, int(wanted.sum()), unit)
    is_kept = wanted.copy()
    is_kept[open_rows[:count]] = True
    if not is_kept.any():
        raise UserError(
            f"select: no row of {len(scores)} would be kept; scores range from {scores.score.min():.4g} to "
            f"{scores.score.max():.4g}: lower select.threshold or raise select.keep_ratio"
        )
    return Selection(
        kept=ids.take(np.flatnonzero(is_kept)),
        rejected=rejections(scores, order, is_kept, reason, decisions),
        threshold=_threshold(scores, open_rows, count),
        contamination=contamination(scores),
    )


def rejections(
    scores: Scores, order: IntArray, is_kept: BoolArray, reason: str, decisions: Mapping[str, Decision]
) -> Rejections:
    """The rows that are not kept, the best first.

    Args:
        scores: N scores.
        order: Their positions, the best first, (N,).
        is_kept: Whether each is kept, (N,).
        reason: Why their score has not kept the others.
        decisions: What people decided, by id.
    """
    places = np.flatnonzero(~is_kept[order])
    rejected = order[places]
    ids = StringArray.of(scores.ids).take(rejected)
    return Rejections(ids, scores.score[rejected], places + 1, reason, frozenset(decided(decisions, "drop")))


def decided(decisions: Mapping[str, Decision], *verbs: str) -> list[str]:
    """Ids of the rows that people decided about; given ``verbs``, only those decided so. ``unsure`` decides nothing."""
    return [row_id for row_id, made in decisions.items() if made.decision in (verbs or ("keep", "drop"))]


def _places(scores: Scores, settings: SelectConfig, open_rows: IntArray, wanted: int, unit: str) -> tuple[int, str]:
    """How many of the rows without a decision (K,) are kept, and why the others are not."""
    if settings.threshold is not None:
        count = int(np.count_nonzero(scores.score[open_rows] >= settings.threshold))
        return count, f"score below {settings.threshold:g}"
    if settings.keep_ratio == "auto":
        ratio = 1 - share_to_drop(contamination(scores.take(open_rows)))
        return math.floor(ratio * len(open_rows) + 0.5), f"below the best {ratio:.4g} of the {unit}"
    ratio = settings.keep_ratio
    count = math.floor(ratio * len(scores) + 0.5) - wanted
    return min(max(count, 0), len(open_rows)), f"below the best {ratio:.4g} of the {unit}"


def _threshold(scores: Scores, open_rows: IntArray, count: int) -> float:
    """The lowest score that kept a row; if none was kept by its score, just above those that were not."""
    if count:
        return float(scores.score[open_rows[count - 1]])
    return float(np.nextafter(scores.score[open_rows].max(initial=scores.score.min()), np.inf))


def best_first(scores: Scores) -> IntArray:
    """Positions by decreasing score, (N,); of equal scores, the lower id comes first."""
    by_id = StringArray.of(scores.ids).argsort()
    order: IntArray = by_id[np.argsort(-scores.score[by_id], kind="stable")]
    return order


def contamination(scores: Scores) -> Contamination | None:
    """The estimated share of unsafe rows; None if the ranker has no probe to estimate it from."""
    if scores.probe_logit is None or "safe_probe_logit" not in scores.selector:
        return None
    return estimate(scores.probe_logit, scores.selector["safe_probe_logit"])


def share_to_drop(estimated: Contamination | None) -> float:
    """The estimated share of unsafe rows if it is significant, and at least MIN_DROPPED.

    Raises:
        UserError: there is no estimate, or it is MAX_DROPPED or more.
    """
    if estimated is None:
        raise UserError(
            "select.keep_ratio: auto needs a ranker that estimates how many rows are unsafe; rank with "
            "rank.method=probe, or set the ratio yourself"
        )
    if not estimated.significant:
        return MIN_DROPPED
    if estimated.share >= MAX_DROPPED:
        raise UserError(
            f"select.keep_ratio: auto: {estimated.share:.0%} of the rows look worse than the safe set, which may be of "
            "another kind; look at the report, then set the share to keep, such as select.keep_ratio=0.5"
        )
    return max(estimated.share, MIN_DROPPED)


def lowest_kept(
    scores: Scores, kept: Collection[str], decisions: Mapping[str, Decision] = NO_DECISIONS
) -> float | None:
    """The threshold: the lowest score of the rows that their score has kept; None if none is kept."""
    ids = StringArray.of(scores.ids)
    found = scores.score[ids.isin(kept) & ~ids.isin(decided(decisions))]
    return float(found.min()) if len(found) else None


def borderline(
    scores: Scores, kept: Collection[str], decisions: Mapping[str, Decision] = NO_DECISIONS
) -> Collection[str]:
    """Rows so close to the threshold that other safe rows, or other epochs, might have changed the outcome.

    Rows that people decided about are not among them.
    """
    threshold = lowest_kept(scores, kept, decisions)
    if threshold is None or scores.standard_error is None:
        return frozenset()
    ids = StringArray.of(scores.ids)
    near = np.abs(scores.score - threshold) < BORDERLINE * scores.standard_error
    return ids.take(np.flatnonzero(near & ~ids.isin(decided(decisions))))


def least_certain(
    scores: Scores, threshold: float, decisions: Mapping[str, Decision] = NO_DECISIONS, most: int | None = None
) -> IntArray:
    """Positions of the rows that people have not decided about, the least certain first: those closest to the threshold
    relative to their standard error, or simply the closest if the ranker estimates none.
    """
    error = scores.standard_error
    distance = np.abs(scores.score - threshold)
    if error is not None and np.isfinite(error).all() and (error > 0).all():
        distance = distance / error
    order = np.argsort(distance, kind="stable")
    undecided: IntArray = order[~StringArray.of(scores.ids).isin(decided(decisions))[order]]
    return undecided[:most]


def reliability(scores: Scores) -> float | None:
    """Share of the variance of the scores that is not error variance, in [0, 1]; None without standard errors.

    Source: the reliability coefficient of classical test theory: Lord and Novick (1968), section 3.3.
    """
    error, variance = scores.standard_error, float(scores.score.var())
    if error is None or not np.isfinite(error).all() or variance == 0:
        return None
    return max(0.0, 1 - float(np.mean(error**2)) / variance)


def require_same_ids(scores: Scores, ids: Iterable[str], where: str) -> None:
    """Raise UserError if the scores belong to other rows than the data."""
    given, scored = StringArray.of(ids), StringArray.of(scores.ids)
    missing, extra = (a.take(np.flatnonzero(~a.isin(b))) for a, b in ((given, scored), (scored, given)))
    if missing or extra:
        example = min(missing or extra)
        raise UserError(
            f"{where}: the scores do not match the data: {len(missing)} rows have no score and {len(extra)} scores "
            f"have no row, for example id {example}; rank again, or give the data that was ranked"
        )
