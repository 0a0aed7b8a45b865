from dataclasses import replace

import pytest

from sealtune.report import evaluation_figures
from sealtune.report.view import ReportView


def test_shares_and_losses_have_their_own_figures(view):
    shares, losses = evaluation_figures.share_dots(view), evaluation_figures.loss_dots(view)
    assert shares["models"] == losses["models"] == ["base", "tuned"]
    assert shares["percent"] and "percent" not in losses
    base = {"model": "base", "name": "loss · safe", "value": 1.25, "shown": "1.250", "low": 1.0, "high": 2.0}
    assert losses["dots"][0] == base
    rating = {"model": "base", "kind": "harmful", "set": "all", "judge": "j", "measure": "harm_rating"}
    rating |= {"title": "harm rating", "unit": "rating", "value": 3.0, "low": 2.0, "high": 4.0, "n": 5}
    assert evaluation_figures.share_dots(ReportView(evaluation=[rating])) is None


def measured(measure, unit, model, value, kind="all", name="all"):
    row = {"measure": measure, "title": measure, "unit": unit, "model": model, "kind": kind, "set": name, "judge": ""}
    return row | {"value": value, "low": value - 0.25, "high": value + 0.5, "n": 9}


def test_discrimination_is_drawn_against_the_held_out_loss_or_else_that_on_the_safe_set(view):
    told = [measured("discrimination", "score", *cell) for cell in (("base", 0.9), ("tuned", 0.8))]
    figure = evaluation_figures.trade_off(replace(view, evaluation=[*view.evaluation, *told]))
    places = [(p["model"], p["x"], p["y"], p["start"]) for p in figure["points"]]
    assert places == [("base", 1.25, 0.9, True), ("tuned", 1.125, 0.8, False)]
    assert figure["points"][0]["y_high"] == pytest.approx(1.4)
    assert figure["x"] == "loss on safe rows, nats per token"
    losses = [measured("loss", "nats", *cell, "", "held_out") for cell in (("base", 3.0), ("tuned", 2.0))]
    figure = evaluation_figures.trade_off(replace(view, evaluation=[*view.evaluation, *told, *losses]))
    assert [point["x"] for point in figure["points"]] == [3.0, 2.0]
    assert evaluation_figures.trade_off(view) is None
    methods = [row | {"model": f"{row['model']} 2"} for row in (*told, *losses)]  # a comparison without the start model
    assert not any(point["start"] for point in evaluation_figures.trade_off(ReportView(evaluation=methods))["points"])


def test_log_odds_are_no_losses_and_a_negative_j_is_inside_the_figure(view):
    more = [measured("log_odds", "nats", "base", -4.0, "harmful"), measured("J", "share", "base", -0.5)]
    shown = replace(view, evaluation=[*view.evaluation, *more])
    assert evaluation_figures.loss_dots(shown) == evaluation_figures.loss_dots(view)
    assert evaluation_figures.share_dots(shown)["domain"][0] <= -75


def test_refusal_rates_are_told_apart_by_the_kind_of_prompts():
    rates = [measured("refusal_rate", "share", "base", 0.5, kind) for kind in ("harmful", "harmless")]
    figure = evaluation_figures.share_dots(
        ReportView(evaluation=[*rates, measured("refusal_rate", "share", "base", 0.5, "harmful", "a")])
    )
    assert sorted(figure["names"]) == [
        "refusal rate · harmful",
        "refusal rate · harmful, a",
        "refusal rate · harmless",
    ]
