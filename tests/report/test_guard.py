from dataclasses import replace

import pytest

from sealtune.report.guard import OFF, guard_figure, guard_sentence
from sealtune.report.page import render
from sealtune.report.view import ReportView

LOG = [{"step": i, "loss": 2.0 / i, "lambda_refuse": 0.5, "lambda_help": 0.5 + i} for i in range(1, 5)]
HISTORY = [
    {"step": 0.0, "refuse": 0.0, "help": 0.0, "J": 0.95},
    {"step": 2.0, "refuse": 0.01, "help": 0.02, "J": 0.94},
    {"step": 4.0, "refuse": 0.03, "help": 0.01, "J": 0.85},
]
GUARD = {"mode": "keep", "tolerance": 0.02, "history": HISTORY, "kept_step": 2, "steps": 4.0}


@pytest.fixture
def guarded():
    return ReportView(guard=GUARD, tune_steps=LOG)


def shown_lines(figure):
    return [line for panel in figure["panels"] for line in panel["lines"]]


def test_the_figure_has_what_was_watched_beside_the_task_loss_and_lambda(guarded):
    figure = guard_figure(guarded)
    lines = {line["name"]: tuple(map(list, zip(*line["points"], strict=True))) for line in shown_lines(figure)}
    assert lines["task loss"] == ([1, 2, 3, 4], [2.0, 1.0, 0.666667, 0.5])
    assert lines["rows that refuse"] == ([0, 2, 4], [0.0, 0.01, 0.03])
    assert lines["rows that help"] == ([0, 2, 4], [0.0, 0.02, 0.01])
    assert lines["lambda, rows that help"] == ([1, 2, 3, 4], [1.5, 2.5, 3.5, 4.5])
    assert lines["J"] == ([0, 2, 4], [0.95, 0.94, 0.85])
    assert [panel["title"] for panel in figure["panels"]] == ["task loss", "distance", "lambda", "J"]
    assert figure["mark"] == 2 and figure["range"] == [0, 4]


def test_without_a_kept_step_no_line_is_drawn_and_without_a_half_no_j(guarded):
    history = [{"step": record["step"], "help": record["help"]} for record in HISTORY]
    figure = guard_figure(replace(guarded, guard=GUARD | {"kept_step": None, "history": history}))
    assert "mark" not in figure
    assert not {"J", "rows that refuse"} & {line["name"] for line in shown_lines(figure)}
    assert guard_figure(ReportView(tune_steps=LOG)) is None
    assert guard_figure(ReportView(guard={"mode": "off", "history": []}, tune_steps=LOG)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "Step 2 of 4 was kept, the latest one whose J is at most 0.02 below the start model's"),
        (
            {"kept_step": 4, "tolerance": 0.2},
            "Step 4 of 4 was kept, the last one, and its J is at most 0.2 below the start model's",
        ),
        (
            {"tolerance": 0.0},
            "was kept, the one with the highest J; all are more than 0 below the start model's: 0.950",
        ),
        ({"tolerance": None}, "Step 2 of 4 was kept; J: 0.950 → 0.940"),
    ],
)
def test_the_sentence_says_which_step_was_kept_and_why(changes, reason):
    text = guard_sentence(GUARD | changes)
    assert text.startswith("Mode keep: the start model's predictions on the safe rows are kept. ")
    assert reason in text
    values = "0.950 → 0.850" if changes.get("kept_step") == 4 else "0.950 → 0.940"
    assert text.endswith(f": {values} (start model → kept, on safe rows not learned from).")


def test_nothing_is_claimed_about_a_step_or_a_j_that_is_not_known():
    assert "tep" not in guard_sentence(GUARD | {"kept_step": None})
    history = [{"step": record["step"], "help": record["help"]} for record in HISTORY]
    assert "J was not measured" in guard_sentence(GUARD | {"history": history})


@pytest.mark.parametrize("value", ["2", [2], 10**400, float("nan"), None])
def test_damaged_numbers_are_not_shown(guarded, value):
    changed = replace(guarded, guard=GUARD | {"kept_step": value, "tolerance": value, "steps": value})
    assert "Step" not in guard_sentence(changed.guard)
    assert "figure-guard" in render(changed)


def test_without_a_guard_the_page_says_what_that_means(guarded):
    off = {"mode": "off", "history": [], "kept_step": None, "steps": None, "tolerance": None}
    assert guard_sentence(off) == OFF
    text = render(replace(guarded, guard=off))
    assert f"<p>{OFF}</p>" in text
    assert 'id="figure-guard"' not in text
    assert guard_sentence(None) == "" and "<h3>Guard</h3>" not in render(replace(guarded, guard=None))
