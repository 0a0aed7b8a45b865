from dataclasses import replace

import pytest

from sealtune.report import evaluation_figures
from sealtune.report.view import ReportView


def names(figure):
    return [trace["name"] for trace in figure["data"]]


def test_shares_and_losses_have_their_own_figures(view):
    shares, losses = evaluation_figures.share_dots(view), evaluation_figures.loss_dots(view)
    assert names(shares) == names(losses) == ["base", "tuned"]
    assert shares["layout"]["xaxis"]["tickformat"] == ".0%" and "tickformat" not in losses["layout"]["xaxis"]
    assert losses["data"][0]["x"] == [1.25] and losses["data"][0]["error_x"]["array"] == [0.75]
    rating = {"model": "base", "kind": "harmful", "set": "all", "judge": "j", "measure": "harm_rating"}
    rating |= {"title": "harm rating", "unit": "rating", "value": 3.0, "low": 2.0, "high": 4.0, "n": 5}
    assert evaluation_figures.share_dots(ReportView(evaluation=[rating])) is None


def measured(measure, unit, model, value, kind="all", name="all"):
    row = {"measure": measure, "title": measure, "unit": unit, "model": model, "kind": kind, "set": name, "judge": ""}
    return row | {"value": value, "low": value - 0.25, "high": value + 0.5, "n": 9}


def test_discrimination_is_drawn_against_the_held_out_loss_or_else_that_on_the_safe_set(view):
    told = [measured("discrimination", "score", *cell) for cell in (("base", 0.9), ("tuned", 0.8))]
    figure = evaluation_figures.trade_off(replace(view, evaluation=[*view.evaluation, *told]))
    assert [(t["name"], t["x"], t["y"]) for t in figure["data"]] == [("base", [1.25], [0.9]), ("tuned", [1.125], [0.8])]
    assert figure["data"][0]["marker"]["symbol"] != figure["data"][1]["marker"]["symbol"]
    assert figure["data"][0]["error_y"]["array"] == [pytest.approx(0.5)]
    assert figure["layout"]["xaxis"]["title"]["text"] == "loss on safe rows, nats per token"
    losses = [measured("loss", "nats", *cell, "", "held_out") for cell in (("base", 3.0), ("tuned", 2.0))]
    figure = evaluation_figures.trade_off(replace(view, evaluation=[*view.evaluation, *told, *losses]))
    assert [t["x"] for t in figure["data"]] == [[3.0], [2.0]]
    assert evaluation_figures.trade_off(view) is None


def test_log_odds_are_no_losses_and_a_negative_j_is_inside_the_figure(view):
    more = [measured("log_odds", "nats", "base", -4.0, "harmful"), measured("J", "share", "base", -0.5)]
    shown = replace(view, evaluation=[*view.evaluation, *more])
    assert evaluation_figures.loss_dots(shown) == evaluation_figures.loss_dots(view)
    assert evaluation_figures.share_dots(shown)["layout"]["xaxis"]["range"][0] < -0.5


def test_refusal_rates_are_told_apart_by_the_kind_of_prompts():
    rates = [measured("refusal_rate", "share", "base", 0.5, kind) for kind in ("harmful", "harmless")]
    figure = evaluation_figures.share_dots(
        ReportView(evaluation=[*rates, measured("refusal_rate", "share", "base", 0.5, "harmful", "a")])
    )
    assert sorted(figure["layout"]["yaxis"]["ticktext"]) == [
        "refusal rate · harmful",
        "refusal rate · harmful, a",
        "refusal rate · harmless",
    ]
