from dataclasses import replace

import numpy as np
import pytest

from sealtune.core.config import SelectConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Decision, Scores
from sealtune.ranking.selection import best_first, borderline, least_certain, lowest_kept, require_same_ids, select


def scores(values, ids=None):
    n = len(values)
    ids = tuple(ids or [f"r{i}" for i in range(n)])
    nothing = np.zeros(n)
    return Scores(ids, ("s",) * n, np.array(values, float), nothing, nothing, nothing, np.zeros(n, np.int64))


def test_the_best_share_is_kept_in_input_order_and_the_rest_is_ranked():
    chosen = select(scores([5, 1, 4, 2, 3]), SelectConfig(keep_ratio=0.6))
    assert chosen.kept == ("r0", "r2", "r4")
    assert [(r.id, r.rank, r.score) for r in chosen.rejected] == [("r3", 4, 2.0), ("r1", 5, 1.0)]
    assert chosen.threshold == 3


def test_ties_are_broken_by_id_whatever_the_order():
    a = select(scores([1, 1, 1, 1]), SelectConfig(keep_ratio=0.5))
    b = select(scores([1, 1, 1, 1], ["r3", "r2", "r1", "r0"]), SelectConfig(keep_ratio=0.5))
    assert set(a.kept) == set(b.kept) == {"r0", "r1"}


def test_a_threshold_replaces_the_ratio():
    assert select(scores([0.5, -1, 2]), SelectConfig(threshold=0.5)).kept == ("r0", "r2")


def test_keeping_everything_and_nothing():
    assert len(select(scores([1, 2]), SelectConfig(keep_ratio=1.0)).rejected) == 0
    with pytest.raises(UserError, match=r"scores range from 1 to 2"):
        select(scores([1, 2]), SelectConfig(threshold=9))


def test_an_automatic_ratio_drops_the_rows_below_the_safe_set():
    """Of a hundred rows, twenty are below all safe rows; then none; then four, which may be chance; then nearly all."""
    safe = np.arange(40.0)

    def kept(low):
        logits = np.where(np.arange(100) < low, -1.0, 39.0)
        judged = replace(scores(np.arange(100.0)), probe_logit=logits, selector={"safe_probe_logit": safe})
        found = select(judged, SelectConfig(keep_ratio="auto"))
        assert found.contamination.share == pytest.approx(low / 100)
        return len(found.kept)

    assert kept(20) == 80
    assert kept(0) == 98
    assert kept(4) == 98
    with pytest.raises(UserError, match=r"90% of the rows .* set the share to keep"):
        kept(90)


def by_hand(**verbs):
    return {row_id: Decision(row_id, verb, "Ann", "2026-11-27T18:00:00+00:00") for row_id, verb in verbs.items()}


def test_decisions_come_before_scores_and_the_share_counts_them():
    found = scores([5, 1, 4, 2, 3])
    chosen = select(found, SelectConfig(keep_ratio=0.6), by_hand(r1="keep", r0="drop", r2="unsure"))
    assert chosen.kept == ("r1", "r2", "r4"), "three of five: one by hand, the best two of the others"
    assert [(r.id, r.rank, r.reason) for r in chosen.rejected] == [
        ("r0", 1, "decision"),
        ("r3", 4, "below the best 0.6 of the rows"),
    ]
    assert chosen.threshold == 3


def test_decisions_may_exceed_or_empty_the_share():
    found = scores([5, 1, 4, 2, 3])
    many = select(found, SelectConfig(keep_ratio=0.2), by_hand(r1="keep", r3="keep"))
    assert many.kept == ("r1", "r3") and many.threshold > 5
    few = select(found, SelectConfig(keep_ratio=0.8), by_hand(r0="drop", r2="drop", r4="drop"))
    assert few.kept == ("r1", "r3")
    with pytest.raises(UserError, match="no row of 2 would be kept"):
        select(scores([1, 2]), SelectConfig(), by_hand(r0="drop", r1="drop"))
    assert select(scores([1, 2]), SelectConfig(), by_hand(r0="keep", r1="keep")).kept == ("r0", "r1")


def test_a_threshold_does_not_move_with_decisions():
    chosen = select(scores([0.5, -1, 2, 3]), SelectConfig(threshold=0.5), by_hand(r1="keep", r3="drop"))
    assert chosen.kept == ("r0", "r1", "r2") and chosen.threshold == 0.5


def test_an_automatic_ratio_estimates_the_rows_that_nobody_decided_about():
    """Thirty of a hundred rows are below all safe rows; people keep ten of these, so twenty are left to drop."""
    logits = np.where(np.arange(100) < 30, -1.0, 39.0)
    found = replace(scores(np.arange(100.0)), probe_logit=logits, selector={"safe_probe_logit": np.arange(40.0)})
    chosen = select(found, SelectConfig(keep_ratio="auto"), by_hand(**{f"r{i}": "keep" for i in range(10)}))
    assert [row.id for row in chosen.rejected] == [f"r{i}" for i in range(29, 9, -1)]


def test_rows_that_people_decided_about_are_neither_the_threshold_nor_uncertain():
    found = replace(scores([0, 1, 2, 3, 4]), standard_error=np.array([1, 1, 0.1, 1, 9.0]))
    made = by_hand(r0="keep", r3="drop", r1="unsure")
    assert lowest_kept(found, ["r0", "r2", "r4"]) == 0
    assert lowest_kept(found, ["r0", "r2", "r4"], made) == 2
    assert set(borderline(found, ["r0", "r2", "r4"], made)) == {"r1", "r2", "r4"}
    assert least_certain(found, 2.5, made).tolist() == [4, 1, 2], "relative to their errors: 0.17, 1.5, 5"
    assert least_certain(found, 2.5, made, 1).tolist() == [4]
    assert least_certain(replace(found, standard_error=None), 2.9).tolist() == [3, 2, 4, 1, 0]


def test_scores_of_other_rows_are_refused():
    require_same_ids(scores([1, 2]), ["r1", "r0"], "x")
    with pytest.raises(UserError, match="1 rows have no score and 1 scores have no row, for example id r9"):
        require_same_ids(scores([1, 2]), ["r0", "r9"], "x")


def test_the_order_equals_that_of_a_plain_sort():
    random = np.random.default_rng(0)
    found = scores(random.integers(0, 9, 200), [f"r{i}" for i in random.permutation(200)])
    plain = sorted(range(200), key=lambda i: (-found.score[i], found.ids[i]))
    assert best_first(found).tolist() == plain
