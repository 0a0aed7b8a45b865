from dataclasses import replace

import numpy as np

from sealtune.core.types import Scores
from sealtune.evaluation.metrics import roc_curve
from sealtune.report import figures
from sealtune.report.view import ReportView


def lines(figure):
    return {line["name"]: line for panel in figure["panels"] for line in panel["lines"]}


def test_the_histogram_counts_every_row_by_label_or_selection(view):
    unlabelled = replace(view, labels=None)
    for shown, groups in (
        (view, ["safe", "unsafe"]),
        (unlabelled, ["kept", "dropped"]),
        (replace(unlabelled, kept=frozenset()), ["rows"]),
    ):
        figure = figures.score_histogram(shown)
        assert figure["groups"] == groups
        assert sum(part["rows"] for part in figure["bins"]) == 40
        assert {part["group"] for part in figure["bins"]} == set(groups)
    assert figures.score_histogram(ReportView()) is None


def test_a_large_histogram_has_a_limited_number_of_bins():
    n = 10_000
    column = np.random.default_rng(0).normal(size=n)
    ids = tuple(map(str, range(n)))
    figure = figures.score_histogram(ReportView(scores=Scores(ids, ids, column, *[column] * 3, np.ones(n, np.int64))))
    assert figures.MAX_BINS / 2 < len(figure["bins"]) <= figures.MAX_BINS


def test_the_roc_figure_shows_the_curve_of_the_metric(view):
    unsafe = np.array([view.labels[i] for i in view.scores.ids])
    points = np.array(figures.roc_figure(view)["points"])
    assert np.allclose(points.T, roc_curve(view.scores.score, unsafe), atol=1e-5)
    one_class = replace(view, labels=dict.fromkeys(view.labels, 0))
    assert figures.roc_figure(one_class) is None and figures.precision_figure(one_class) is None


def test_curves_show_only_what_was_logged(view):
    ranking = lines(figures.rank_curves(view))
    assert {"safe set", "gap", "gamma"} <= ranking.keys() and "candidates, theta-hat" not in ranking
    assert ranking["safe set"]["points"] == [[1, 2.0], [2, 1.5]]
    tuning = lines(figures.tune_curves(view))
    assert "average" in tuning["training loss"] and "average" not in tuning["learning rate"]
    assert figures.rank_curves(ReportView(rank_steps=[{"step": 1, "safe_loss": None}])) is None


def test_long_curves_are_subsampled_including_both_ends():
    steps = [{"step": i, "loss": float(i)} for i in range(1, 5_001)]
    line = lines(figures.tune_curves(ReportView(tune_steps=steps)))["training loss"]
    for points in (line["points"], line["average"]):
        assert len(points) == figures.MAX_POINTS and (points[0][0], points[-1][0]) == (1, 5_000)


def test_sources_that_look_the_same_have_bars_of_their_own(view):
    source = tuple("same start of a long name of a source" + "ab"[i % 2] for i in range(len(view.scores)))
    figure = figures.source_bars(replace(view, scores=replace(view.scores, source=source)))
    assert len(set(figure["names"])) == 2
    assert sum(bar["rows"] for bar in figure["bars"]) == 40


def test_lengths_are_set_against_scores(view):
    texts = {
        i: ("p", "x" * (10 + 5 * rank))
        for rank, i in enumerate(np.array(view.scores.ids)[np.argsort(view.scores.score)])
    }
    figure = figures.length_dots(replace(view, texts=texts))
    assert len(figure["dots"]) == 40 and figure["correlation"] == 1 and figure["groups"] == ["safe", "unsafe"]
    assert [dot["x"] for dot in figure["dots"]] == [10 + 5 * rank for rank in range(40)]
    assert figures.length_dots(replace(view, texts=dict.fromkeys(view.scores.ids, ("p", "same")))) is None
    assert figures.length_dots(ReportView()) is None


def test_many_lengths_are_a_sample_of_the_whole_ranking():
    n = 5_000
    column = np.random.default_rng(0).permutation(n).astype(float)
    ids = tuple(map(str, range(n)))
    scores = Scores(ids, ids, column, *[column] * 3, np.ones(n, np.int64))
    figure = figures.length_dots(ReportView(scores=scores, texts={i: ("p", "x" * (1 + int(i) % 7)) for i in ids}))
    shown = [dot["y"] for dot in figure["dots"]]
    assert len(shown) == figures.MAX_DOTS and (shown[0], shown[-1]) == (0, n - 1) and shown == sorted(shown)
