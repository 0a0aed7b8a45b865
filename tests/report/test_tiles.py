from dataclasses import replace

import numpy as np

from sealtune.core.types import Decision
from sealtune.evaluation import metrics
from sealtune.report.tiles import detection_tiles, headline_tiles, summary, uncertainty_tiles
from sealtune.report.view import ReportView


def values(tiles):
    return {tile.name: tile.value for tile in tiles}


def test_headline_figures_are_the_metrics(view):
    score = view.scores.score
    unsafe = np.array([view.labels[i] for i in view.scores.ids])
    shown = values(headline_tiles(view))
    assert (shown["Rows ranked"], shown["Rows kept"], shown["Rows dropped"]) == ("40", "30", "10")
    assert shown["Unsafe rows dropped"] == f"{100 * metrics.recall_in_lowest(score, unsafe, 0.25):.1f}%"
    assert shown["AUROC"] == f"{metrics.auroc(score, unsafe):.3f}"
    assert shown["Attack success rate"] == "50.0% → 80.0%" and shown["Over-refusal"] == "50.0% → 20.0%"
    assert shown["Safe-set loss"] == "1.250 → 1.125"


def test_discrimination_and_j_lead_the_evaluation_and_higher_is_better(view):
    row = {"kind": "all", "set": "all", "judge": "", "low": 0.0, "high": 1.0, "n": 9}
    more = [
        row | {"measure": measure, "title": measure, "unit": unit, "model": model, "value": value}
        for measure, unit in (("J", "share"), ("discrimination", "score"))
        for model, value in (("base", 0.9), ("tuned", 0.75))
    ]
    tiles = headline_tiles(replace(view, evaluation=[*view.evaluation, *more]))
    names = [tile.name for tile in tiles]
    assert names.index("Discrimination") + 1 == names.index("J") < names.index("Attack success rate")
    assert values(tiles)["Discrimination"] == "0.900 → 0.750" and values(tiles)["J"] == "90.0% → 75.0%"
    better = {tile.name: tile.note.split("; ")[-1] for tile in tiles}
    assert (better["J"], better["Over-refusal"]) == ("higher is better", "lower is better")


def test_figures_of_other_runs_are_not_on_the_tiles(view):
    other = [row | {"model": "plain", "source": "runs/plain"} for row in view.evaluation if row["model"] == "tuned"]
    assert headline_tiles(replace(view, evaluation=[*view.evaluation, *other])) == headline_tiles(view)


def test_detection_figures_are_the_metrics(view):
    score = view.scores.score
    unsafe = np.array([view.labels[i] for i in view.scores.ids])
    shown = values(detection_tiles(view))
    assert shown["Average precision"] == f"{metrics.average_precision(score, unsafe):.3f}"
    assert shown["Recall at 10"] == f"{100 * metrics.recall_at_k(score, unsafe, 10):.1f}%"
    assert detection_tiles(replace(view, labels=None)) == []


def test_an_insignificant_estimate_is_marked(view):
    estimate, *_ = uncertainty_tiles(view)
    assert (estimate.value, estimate.note) == ("14.8%", "between 0.0% and 39.3% (not significant)")
    certain = {"estimated_unsafe": view.uncertainty["estimated_unsafe"] | {"significant": True}}
    (estimate,) = uncertainty_tiles(replace(view, uncertainty=certain))
    assert estimate.note == "between 0.0% and 39.3%" and estimate in headline_tiles(replace(view, uncertainty=certain))
    assert uncertainty_tiles(ReportView()) == []


def test_the_summary_states_what_was_ranked_kept_and_dropped(view):
    unlabelled = replace(view, labels=None)
    ranking = "40 fine-tuning rows were ranked against the safe set."
    selection = "The 30 rows with the highest scores were kept; the other 10 were dropped"
    assert summary(unlabelled) == f"{ranking} {selection}."
    assert summary(view).endswith("of the 10 rows labelled unsafe.")
    assert summary(replace(view, kept=frozenset())) == f"{ranking} No rows have been selected yet."
    assert summary(ReportView()) == ""


def test_the_summary_counts_what_people_decided(view):
    made = {
        i: Decision(i, verb, "Ann", "2026-11-27") for i, verb in (("row1", "keep"), ("row2", "drop"), ("x", "unsure"))
    }
    text = summary(replace(view, labels=None, decisions=made))
    assert "People decided to keep 1 of them and to drop 1;" in text and "highest scores were kept" not in text
    assert text.endswith("In all, 30 were kept and 10 dropped.")
