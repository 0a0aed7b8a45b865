"""Ranks and selects the answers of conversations one by one: ``select.granularity=turn``.

A conversation is as good as its best answer: it is kept if one of its answers is, and the others are masked. So the
threshold is one and the same for conversations and answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sealtune.core.config import SelectConfig
from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Decision, Rejections, Scores, Selection
from sealtune.data.turn_rows import TurnRows
from sealtune.ranking.selection import best_first, decided, select


@dataclass(frozen=True, slots=True)
class TurnScores:
    """The scores of T answers.

    Attributes:
        scores: One per answer, under the id of its conversation, which occurs once per answer.
        number: Number of the answer in its conversation, (T,), from 1.
    """

    scores: Scores
    number: IntArray


def decisions_of_turns(made: Mapping[str, Decision], turns: TurnRows, ids: Sequence[str]) -> dict[str, Decision]:
    """What people decided about conversations, for each of their answers.

    Args:
        made: Decisions by the id of a conversation.
        turns: The answers.
        ids: Ids of the conversations, (N,).
    """
    of = [ids[i] for i in turns.conversation.tolist()]
    return {t: replace(made[row], id=t) for t, row in zip(turns.encoded.ids, of, strict=True) if row in made}


def best_turns(scores: Scores, turns: TurnRows, ids: Sequence[str]) -> Scores:
    """The scores of N conversations, from those of their answers: each has all figures of its best answer."""
    order = np.lexsort((-scores.score, turns.conversation))
    first = np.flatnonzero(np.diff(turns.conversation[order], prepend=-1))
    best = scores.take(order[first])
    names = StringArray.of(ids)
    bad = np.flatnonzero(StringArray.of(best.ids).isin(scores.non_finite))
    return replace(best, ids=names, non_finite=tuple(names.take(bad)))


def select_turns(
    rows: Scores, turns: TurnScores, settings: SelectConfig, made: Mapping[str, Decision]
) -> tuple[Selection, dict[str, list[int]]]:
    """Which conversations are kept, and which of their answers are masked.

    ``keep_ratio`` is the share of the answers that are kept. A decision about a conversation holds for all its answers.

    Args:
        rows: The scores of the conversations, by ``best_turns``.
        turns: Those of their answers.
        settings: How many to keep.
        made: Decisions by the id of a conversation.

    Returns:
        The selection of the conversations, and the numbers of the masked answers by id.

    Raises:
        UserError: Nothing would be kept, or there is nothing to estimate ``auto`` from.
    """
    of, number = StringArray.of(turns.scores.ids), turns.number
    names = [f"{row}\n{k}" for row, k in zip(of, number.tolist(), strict=True)]
    found = select(
        replace(turns.scores, ids=StringArray.of(names)),
        settings,
        {name: made[row] for name, row in zip(names, of, strict=True) if row in made},
    )
    is_kept = StringArray.of(names).isin(found.kept)
    ids = StringArray.of(rows.ids)
    with_kept = ids.isin(of.take(np.flatnonzero(is_kept)))
    order = best_first(rows)
    places = np.flatnonzero(~with_kept[order])
    rejected = order[places]
    by_hand = frozenset(decided(made, "drop"))
    assert isinstance(found.rejected, Rejections)
    reason = found.rejected.reason.replace("rows", "answers")
    selection = replace(
        found,
        kept=ids.take(np.flatnonzero(with_kept)),
        rejected=Rejections(ids.take(rejected), rows.score[rejected], places + 1, reason, by_hand),
    )
    masked: dict[str, list[int]] = {}
    for i in np.flatnonzero(~is_kept & of.isin(selection.kept)).tolist():
        masked.setdefault(of[i], []).append(int(number[i]))
    return selection, masked
