"""Ranks and selects the answers of conversations one by one: ``select.granularity=turn``.

A conversation is as good as its best answer: it is kept if one of its answers is, and the others are masked. So the
threshold is one and the same for conversations and answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sealtune.core.config import SelectConfig
from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Decision, Scores, Selection
from sealtune.data.turn_rows import TurnRows
from sealtune.ranking.selection import best_first, rejections, select


@dataclass(frozen=True, slots=True)
class TurnScores:
    """The scores of T answers.

    Attributes:
        scores: One per answer, under the id of its conversation, which occurs once per answer.
        number: Number of the answer in its conversation, (T,), from 1.
    """

    scores: Scores
    number: IntArray

    @property
    def answers(self) -> dict[str, int]:
        """How many answers each conversation has, by its id."""
        return dict(Counter(self.scores.ids))


def decisions_of_turns(made: Mapping[str, Decision], turns: TurnRows) -> dict[str, Decision]:
    """What people decided about conversations, by the id of each of their answers."""
    pairs = zip(turns.encoded.ids, turns.conversation_ids, strict=True)
    return {answer: replace(made[row], id=answer) for answer, row in pairs if row in made}


def best_turns(scores: Scores, turns: TurnRows) -> Scores:
    """The scores of N conversations, from those of their answers: each has all figures of its best answer."""
    order = np.lexsort((-scores.score, turns.conversation))
    first = np.flatnonzero(np.diff(turns.conversation[order], prepend=-1))
    best = scores.take(order[first])
    bad = np.flatnonzero(StringArray.of(best.ids).isin(scores.non_finite))
    return replace(best, ids=turns.ids, non_finite=tuple(turns.ids.take(bad)))


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
    names = StringArray.of(f"{row}\n{k}" for row, k in zip(of, number.tolist(), strict=True))
    by_answer = {name: made[row] for name, row in zip(names, of, strict=True) if row in made}
    found = select(replace(turns.scores, ids=names), settings, by_answer, unit="answers")
    is_kept = names.isin(found.kept)
    ids = StringArray.of(rows.ids)
    with_kept = ids.isin(of.take(np.flatnonzero(is_kept)))
    selection = replace(
        found,
        kept=ids.take(np.flatnonzero(with_kept)),
        rejected=rejections(rows, best_first(rows), with_kept, found.rejected.reason, made),
    )
    masked: dict[str, list[int]] = {}
    for i in np.flatnonzero(~is_kept & of.isin(selection.kept)).tolist():
        masked.setdefault(of[i], []).append(int(number[i]))
    return selection, masked
