from dataclasses import replace

import numpy as np

from sealtune.core.types import Neighbours, Scores
from sealtune.report import row_data
from sealtune.report.view import ReportView


def ranked(n, **more):
    score = np.random.default_rng(0).permutation(n) / n
    ids = tuple(f"row{i}" for i in range(n))
    scores = Scores(ids, ids, score, np.ones(n), np.full(n, np.nan), np.full(n, np.nan), np.ones(n, np.int64))
    return replace(scores, **more)


class Texts(dict):
    """A text of a hundred characters for every row."""

    def get(self, row_id, default=None):
        return (row_id, "x" * (100 - len(row_id)))


def test_a_page_that_is_too_small_takes_the_lowest_the_closest_and_random_rows(monkeypatch):
    monkeypatch.setattr(row_data, "MAX_ROWS", 30)
    scores = ranked(1_000)
    kept = frozenset(scores.ids[i] for i in np.flatnonzero(scores.score >= 0.5))
    found = row_data.row_data(ReportView(scores=scores, kept=kept))
    shown = np.array(found["score"])
    assert len(shown) == 30 and found["total"] == 1_000
    assert (shown < 0.01).sum() >= 10
    assert (abs(shown - 0.5) < 0.006).sum() >= 10
    assert (shown > 0.6).sum() >= 1
    assert found["rank"][0] == 1_000  # ranks count the rows that are not shown


def test_texts_stop_at_their_limit_with_the_most_interesting_rows_first(monkeypatch):
    monkeypatch.setattr(row_data, "TEXT_CHARACTERS", 1_050)
    found = row_data.row_data(ReportView(scores=ranked(200), texts=Texts()))
    assert len(found["texts"]["rows"]) == 10
    assert {0, 1, 2} <= set(found["texts"]["rows"])
    monkeypatch.setattr(row_data, "MAX_CHARACTERS", 20)
    found = row_data.row_data(ReportView(scores=ranked(3), texts=Texts()))
    assert found["texts"]["responses"][0] == "x" * 20 + "… [76 more characters]"


def test_thresholds_say_what_they_would_keep(view):
    cuts = row_data.cuts(view)
    for cut, kept, unsafe in zip(cuts["score"], cuts["kept"], cuts["unsafe"], strict=True):
        below = view.scores.score < cut - 1e-5
        assert kept == (~below).sum()
        assert unsafe == sum(view.labels[view.scores.ids[i]] for i in np.flatnonzero(below))
    assert cuts["unsafe_rows"] == 10
    assert 30 in cuts["kept"]  # that of the selection
    assert row_data.cuts(replace(view, labels=None))["unsafe"] == []


def test_summands_and_places_come_along():
    parts = {"fit": np.array([-1.0, 0.25, np.nan])}
    scores = ranked(3, parts=parts, places=np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]]))
    found = row_data.row_data(ReportView(scores=scores))
    order = np.argsort(scores.score)
    assert found["parts"]["fit"] == [[-1.0, 0.25, None][i] for i in order]
    assert found["map"]["x"] == [[1.0, None, 3.0][i] for i in order]
    assert row_data.row_data(ReportView(scores=ranked(3)))["map"] is None
    assert found["states"][found["state"][0]] == "ranked"


def test_no_row_is_no_table():
    assert row_data.cuts(ReportView())["score"] == []


def test_neighbours_are_places_of_rows_that_are_shown(view):
    ids = view.scores.ids
    near = {
        ids[0]: Neighbours(ids[0], (ids[3], ids[1], "gone"), ("s1", "s2")),
        ids[3]: Neighbours(ids[3], (ids[0],), ("s2",)),
    }
    shown = replace(view, neighbours=near, safe_texts={"s1": ("p1", "x" * 700), "s2": ("p2", "r2")})
    found = row_data.row_data(shown)
    place = {row_id: i for i, row_id in enumerate(found["ids"])}
    assert found["near"]["rows"][place[ids[0]]] == [place[ids[3]], place[ids[1]]]
    texts = found["near"]["texts"]
    assert [texts[i][0] for i in found["near"]["safe"][place[ids[0]]]] == ["s1", "s2"]
    assert [texts[i][0] for i in found["near"]["safe"][place[ids[3]]]] == ["s2"]
    assert {text[0]: text[2][:3] for text in texts} == {"s1": "xxx", "s2": "r2"}
    assert "100 more characters" in next(text[2] for text in texts if text[0] == "s1")
    assert row_data.row_data(view)["near"] is None
