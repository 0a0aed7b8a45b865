"""From scores to the rows that are kept."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import numpy as np

from sealtune.config import SelectConfig
from sealtune.contamination import estimate
from sealtune.records import Contamination, IntArray, Rejections, Scores, Selection, UserError
from sealtune.texts import Texts

CAUTION = 0.02
"""Share that ``keep_ratio: auto`` drops where no unsafe rows are seen: a few may hide among the worst."""

BLIND = 0.75
"""Share from which ``keep_ratio: auto`` drops nothing by itself: candidates and safe set may be of different kinds."""

UNSURE = 2.0
"""Doubts from the threshold within which a row might as well be on the other side."""


def select(scores: Scores, settings: SelectConfig) -> Selection:
    """The top ``keep_ratio`` of the rows, or those whose score is at least ``threshold``; kept ids in input order.

    Ties are broken by id, so neither the order of the rows nor the sort can change what is kept.

    Raises:
        UserError: nothing would be kept, or ``keep_ratio`` is ``auto`` and the ranker gives nothing to estimate from.
    """
    ids, order = Texts.of(scores.ids), best_first(scores)
    found = contamination(scores)
    if settings.threshold is not None:
        count = int(np.count_nonzero(scores.score >= settings.threshold))
        reason = f"score below {settings.threshold:g}"
    else:
        ratio = 1 - share_to_drop(found) if settings.keep_ratio == "auto" else settings.keep_ratio
        count = math.floor(ratio * len(scores) + 0.5)
        reason = f"below the best {ratio:.4g} of the rows"
    if count == 0:
        raise UserError(
            f"select: no row of {len(scores)} would be kept; scores lie between {scores.score.min():.4g} and "
            f"{scores.score.max():.4g}: lower select.threshold or raise select.keep_ratio"
        )
    return Selection(
        kept=ids.take(np.sort(order[:count])),
        rejected=Rejections(ids.take(order[count:]), scores.score[order[count:]], count + 1, reason),
        threshold=float(scores.score[order[count - 1]]),
        contamination=found,
    )


def best_first(scores: Scores) -> IntArray:
    """Positions by falling score, (N,); of equal scores the lower id comes first."""
    by_id = Texts.of(scores.ids).order()
    order: IntArray = by_id[np.argsort(-scores.score[by_id], kind="stable")]
    return order


def contamination(scores: Scores) -> Contamination | None:
    """How many rows seem unsafe; None where the ranker gives no margins."""
    if scores.margin is None or "safe_margin" not in scores.selector:
        return None
    return estimate(scores.margin, scores.selector["safe_margin"])


def share_to_drop(found: Contamination | None) -> float:
    """The share that is estimated to be unsafe where that is more than chance, and at least ``CAUTION``.

    Raises:
        UserError: there is no estimate, or it is ``BLIND`` or more.
    """
    if found is None:
        raise UserError(
            "select.keep_ratio: auto needs a ranker that estimates how many rows are unsafe; rank with "
            "rank.method=shared, or give a share"
        )
    if not found.found:
        return CAUTION
    if found.share >= BLIND:
        raise UserError(
            f"select.keep_ratio: auto: {found.share:.0%} of the rows look worse than the safe set, which may be of "
            "another kind; look at the report, then give a share to keep, such as select.keep_ratio=0.5"
        )
    return max(found.share, CAUTION)


def lowest_kept(scores: Scores, kept: Collection[str]) -> float | None:
    """The threshold: the lowest score of the rows kept; None where none is."""
    found = scores.score[Texts.of(scores.ids).among(kept)]
    return float(found.min()) if len(found) else None


def unsure(scores: Scores, kept: Collection[str]) -> Collection[str]:
    """Rows so near the threshold that other safe rows, or other epochs, might have put them on the other side."""
    threshold = lowest_kept(scores, kept)
    if threshold is None or scores.doubt is None:
        return frozenset()
    near = np.abs(scores.score - threshold) < UNSURE * scores.doubt
    return Texts.of(scores.ids).take(np.flatnonzero(near))


def reliability(scores: Scores) -> float | None:
    """Share of the variance of the scores that is not doubt, in [0, 1]; None where the ranker tells no doubt.

    Source: the reliability coefficient of classical test theory: Lord and Novick (1968), section 3.3.
    """
    if scores.doubt is None or not np.isfinite(scores.doubt).all() or float(scores.score.var()) == 0:
        return None
    return max(0.0, 1 - float(np.mean(scores.doubt**2)) / float(scores.score.var()))


def require_same_ids(scores: Scores, ids: Iterable[str], where: str) -> None:
    """Raise UserError where the scores are of other rows than the data."""
    given, scored = Texts.of(ids), Texts.of(scores.ids)
    missing, extra = (a.take(np.flatnonzero(~a.among(b))) for a, b in ((given, scored), (scored, given)))
    if missing or extra:
        example = min(missing or extra)
        raise UserError(
            f"{where}: the scores do not match the data: {len(missing)} rows have no score and {len(extra)} scores no "
            f"row, for example id {example}; rank again, or give the data that was ranked"
        )
