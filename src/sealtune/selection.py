"""From scores to the rows that are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sealtune.config import SelectConfig
from sealtune.records import Rejected, Scores, Selection, UserError


def select(scores: Scores, settings: SelectConfig) -> Selection:
    """The top ``keep_ratio`` of the rows, or those whose score is at least ``threshold``; kept ids in input order.

    Ties are broken by id, so neither the order of the rows nor the sort can change what is kept.

    Raises:
        UserError: nothing would be kept.
    """
    order = sorted(range(len(scores)), key=lambda i: (-scores.score[i], scores.ids[i]))
    if settings.threshold is None:
        count = math.floor(settings.keep_ratio * len(scores) + 0.5)
        reason = f"below the best {settings.keep_ratio:.4g} of the rows"
    else:
        count = int(np.count_nonzero(scores.score >= settings.threshold))
        reason = f"score below {settings.threshold:g}"
    if count == 0:
        raise UserError(
            f"select: no row of {len(scores)} would be kept; scores lie between {scores.score.min():.4g} and "
            f"{scores.score.max():.4g}: lower select.threshold or raise select.keep_ratio"
        )
    return Selection(
        kept=tuple(scores.ids[i] for i in sorted(order[:count])),
        rejected=tuple(
            Rejected(scores.ids[i], rank, float(scores.score[i]), reason)
            for rank, i in enumerate(order[count:], start=count + 1)
        ),
        threshold=float(scores.score[order[count - 1]]),
    )


def require_same_ids(scores: Scores, ids: Sequence[str], where: str) -> None:
    """Raise UserError where the scores are of other rows than the data."""
    missing, extra = set(ids) - set(scores.ids), set(scores.ids) - set(ids)
    if missing or extra:
        example = sorted(missing or extra)[0]
        raise UserError(
            f"{where}: the scores do not match the data: {len(missing)} rows have no score and {len(extra)} scores no "
            f"row, for example id {example}; rank again, or give the data that was ranked"
        )
