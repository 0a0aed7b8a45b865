"""Answers are ranked and selected one by one."""

from dataclasses import replace

import numpy as np

from sealtune.core.config import SelectConfig
from sealtune.core.string_array import StringArray
from sealtune.core.types import Decision, Scores
from sealtune.data.encoded import Encoded
from sealtune.data.turn_rows import split_turns
from sealtune.ranking.turns import TurnScores, best_turns, decisions_of_turns, select_turns

NAMES = ("a", "b", "c")
SCORES = np.array([0.9, 0.1, 0.5, 0.2, 0.3])  # a#1, a#2, b, c#1, c#2


def conversations():
    part = (np.arange(4, dtype=np.int32), np.array([0, 1, 0, 1], np.bool_))
    single = (np.arange(2, dtype=np.int32), np.array([0, 1], np.bool_))
    return split_turns(Encoded.join(NAMES, ["s"] * 3, [part, single, part]))


def ranked(**changes):
    turns = conversations()
    scores = replace(Scores.unweighted(turns.encoded.ids, turns.encoded.source, SCORES), **changes)
    by_turn = TurnScores(replace(scores, ids=StringArray.of([NAMES[i] for i in turns.conversation])), turns.number)
    return best_turns(scores, turns), by_turn


def test_a_conversation_is_as_good_as_its_best_answer():
    rows, _ = ranked(loss=np.arange(5.0))
    assert list(rows.ids) == [*NAMES] and rows.score.tolist() == [0.9, 0.5, 0.3]
    assert rows.loss.tolist() == [0, 2, 4]  # all figures are those of that answer


def test_a_conversation_counts_as_not_finite_if_all_its_answers_are():
    rows, _ = ranked(non_finite=("a#2", "b", "c#1"))
    assert rows.non_finite == ("b",)


def test_the_share_of_answers_is_kept_and_the_others_are_masked_or_their_row_dropped():
    rows, by_turn = ranked()
    found, masked = select_turns(rows, by_turn, SelectConfig(keep_ratio=0.4), {})
    assert list(found.kept) == ["a", "b"] and masked == {"a": [2]}
    (dropped,) = found.rejected
    assert (dropped.id, dropped.rank, dropped.score) == ("c", 3, 0.3)
    assert dropped.reason == "below the best 0.4 of the answers"
    assert found.threshold == 0.5
    _, masked = select_turns(rows, by_turn, SelectConfig(threshold=0.25), {})
    assert masked == {"a": [2], "c": [1]}


def test_a_decision_holds_for_all_answers_of_a_conversation():
    rows, by_turn = ranked()
    made = {"a": Decision("a", "drop", "me", "now"), "c": Decision("c", "keep", "me", "now")}
    found, masked = select_turns(rows, by_turn, SelectConfig(keep_ratio=0.4), made)
    assert list(found.kept) == ["c"] and masked == {}
    assert {row.id: row.reason for row in found.rejected}["a"] == "decision"
    spread = decisions_of_turns(made, conversations())
    assert {key: (d.id, d.decision) for key, d in spread.items()} == {
        "a#1": ("a#1", "drop"), "a#2": ("a#2", "drop"), "c#1": ("c#1", "keep"), "c#2": ("c#2", "keep"),
    }  # fmt: skip
