from dataclasses import replace

import numpy as np
import pytest

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


def test_shares_and_losses_have_their_own_figures(view):
    shares, losses = figures.share_dots(view), figures.loss_dots(view)
    assert names(shares) == names(losses) == ["base", "tuned"]
    assert shares["layout"]["xaxis"]["tickformat"] == ".0%" and "tickformat" not in losses["layout"]["xaxis"]
    assert losses["data"][0]["x"] == [1.25] and losses["data"][0]["error_x"]["array"] == [0.75]
    rating = {"model": "base", "kind": "harmful", "set": "all", "judge": "j", "measure": "harm_rating"}
    rating |= {"title": "harm rating", "unit": "rating", "value": 3.0, "low": 2.0, "high": 4.0, "n": 5}
    assert figures.share_dots(ReportView(evaluation=[rating])) is None


def measured(measure, unit, model, value, kind="all", name="all"):
    row = {"measure": measure, "title": measure, "unit": unit, "model": model, "kind": kind, "set": name, "judge": ""}
    return row | {"value": value, "low": value - 0.25, "high": value + 0.5, "n": 9}


def test_discrimination_is_drawn_against_the_held_out_loss_or_else_that_on_the_safe_set(view):
    told = [measured("discrimination", "score", *cell) for cell in (("base", 0.9), ("tuned", 0.8))]
    figure = figures.trade_off(replace(view, evaluation=[*view.evaluation, *told]))
    assert [(t["name"], t["x"], t["y"]) for t in figure["data"]] == [("base", [1.25], [0.9]), ("tuned", [1.125], [0.8])]
    assert figure["data"][0]["marker"]["symbol"] != figure["data"][1]["marker"]["symbol"]
    assert figure["data"][0]["error_y"]["array"] == [pytest.approx(0.5)]
    assert figure["layout"]["xaxis"]["title"]["text"] == "loss on safe rows, nats per token"
    losses = [measured("loss", "nats", *cell, "", "held_out") for cell in (("base", 3.0), ("tuned", 2.0))]
    figure = figures.trade_off(replace(view, evaluation=[*view.evaluation, *told, *losses]))
    assert [t["x"] for t in figure["data"]] == [[3.0], [2.0]]
    assert figures.trade_off(view) is None


def test_log_odds_are_no_losses_and_a_negative_j_is_inside_the_figure(view):
    more = [measured("log_odds", "nats", "base", -4.0, "harmful"), measured("J", "share", "base", -0.5)]
    shown = replace(view, evaluation=[*view.evaluation, *more])
    assert figures.loss_dots(shown) == figures.loss_dots(view)
    assert figures.share_dots(shown)["layout"]["xaxis"]["range"][0] < -0.5


def test_refusal_rates_are_told_apart_by_the_kind_of_prompts():
    rates = [measured("refusal_rate", "share", "base", 0.5, kind) for kind in ("harmful", "harmless")]
    figure = figures.share_dots(
        ReportView(evaluation=[*rates, measured("refusal_rate", "share", "base", 0.5, "harmful", "a")])
    )
    assert sorted(figure["layout"]["yaxis"]["ticktext"]) == [
        "refusal rate · harmful",
        "refusal rate · harmful, a",
        "refusal rate · harmless",
    ]


def test_source_names_are_escaped_in_figures(view):
    source = ("<b>x</b>",) * len(view.scores)
    figure = figures.source_bars(replace(view, scores=replace(view.scores, source=source)))
    assert figure["data"][0]["y"] == ["&lt;b&gt;x&lt;/b&gt;"]
