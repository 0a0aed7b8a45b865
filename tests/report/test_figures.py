from dataclasses import replace

import numpy as np

from sealtune.core.types import Scores
from sealtune.evaluation.metrics import roc_curve
from sealtune.report import figures
from sealtune.report.view import ReportView


def names(figure):
    return [trace["name"] for trace in figure["data"]]


def test_the_histogram_counts_every_row_by_label_or_selection(view):
    unlabelled = replace(view, labels=None)
    for shown, groups in (
        (view, ["safe", "unsafe"]),
        (unlabelled, ["kept", "dropped"]),
        (replace(unlabelled, kept=frozenset()), ["rows"]),
    ):
        figure = figures.score_histogram(shown)
        assert names(figure) == groups
        assert sum(sum(trace["y"]) for trace in figure["data"]) == 40
    assert figures.score_histogram(ReportView()) is None


def test_a_large_histogram_has_a_limited_number_of_bins():
    n = 10_000
    column = np.random.default_rng(0).normal(size=n)
    ids = tuple(map(str, range(n)))
    figure = figures.score_histogram(ReportView(scores=Scores(ids, ids, column, *[column] * 3, np.ones(n, np.int64))))
    assert len(figure["data"][0]["x"]) == figures.MAX_BINS


def test_the_roc_figure_shows_the_curve_of_the_metric(view):
    unsafe = np.array([view.labels[i] for i in view.scores.ids])
    curve = figures.roc_figure(view)["data"][1]
    false_positive, true_positive = roc_curve(view.scores.score, unsafe)
    assert np.allclose(curve["x"], false_positive, atol=1e-5) and np.allclose(curve["y"], true_positive, atol=1e-5)
    one_class = replace(view, labels=dict.fromkeys(view.labels, 0))
    assert figures.roc_figure(one_class) is None and figures.precision_figure(one_class) is None


def test_curves_show_only_what_was_logged(view):
    ranking = names(figures.rank_curves(view))
    assert "safe set" in ranking and "gap" in ranking and "gamma" in ranking
    assert "candidates, theta-hat" not in ranking
    assert names(figures.tune_curves(view)) == ["training loss, per step", "training loss", "learning rate"]
    assert figures.rank_curves(ReportView(rank_steps=[{"step": 1, "safe_loss": None}])) is None


def test_long_curves_are_subsampled_including_both_ends():
    steps = [{"step": i, "loss": float(i)} for i in range(1, 5_001)]
    pale, *_ = figures.tune_curves(ReportView(tune_steps=steps))["data"]
    assert len(pale["x"]) == figures.MAX_POINTS and (pale["x"][0], pale["x"][-1]) == (1, 5_000)


def test_source_names_are_escaped_in_figures(view):
    source = ("<b>x</b>",) * len(view.scores)
    figure = figures.source_bars(replace(view, scores=replace(view.scores, source=source)))
    assert figure["data"][0]["y"] == ["&lt;b&gt;x&lt;/b&gt;"]
