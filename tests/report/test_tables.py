from dataclasses import replace

from sealtune.core.types import Drop
from sealtune.report import tables
from sealtune.report.view import ReportView


def test_the_lowest_rows_come_first(view):
    shown = [row["score"] for row in tables.lowest_rows(view)]
    assert shown == sorted(view.scores.score.tolist())[:5]


def test_sources_add_up(view):
    rows = tables.source_rows(view)
    assert [row["source"] for row in rows] == ["a", "b"]
    assert sum(row["kept"] for row in rows) == 30 and sum(row["dropped"] for row in rows) == 10
    assert [row["unsafe"] for row in rows] == [10, 0]
    assert tables.source_rows(replace(view, labels=None, kept=frozenset()))[0]["unsafe"] is None


def test_drops_are_grouped_by_reason():
    drops = [Drop(str(i), "a", reason, "", {}) for i, reason in enumerate(["too_long", "empty_response", "too_long"])]
    rows = tables.drop_rows(ReportView(drops=drops))
    assert [(row["reason"], row["rows"], row["example"].id) for row in rows] == [
        ("too_long", 2, "0"),
        ("empty_response", 1, "1"),
    ]


def test_rows_without_a_label_are_not_scored_against_labels(view):
    labels = {view.scores.ids[0]: 1, view.scores.ids[1]: 0}
    score, unsafe = tables.labelled_scores(replace(view, labels=labels))
    assert score.tolist() == view.scores.score[:2].tolist() and unsafe.tolist() == [1, 0]
    assert tables.labelled_scores(replace(view, labels=None)) is None


def test_evaluation_rows_have_one_cell_per_model_in_the_unit_of_the_measure(view):
    rows = tables.evaluation_rows(view)
    assert tables.model_names(view.evaluation) == ["base", "tuned"]
    first = rows[0]
    assert (first["measure"], first["set"], first["unit"]) == ("attack_success_rate", "all", "share")
    assert first["title"] == "attack success rate (compliance)"
    assert [cell["value"] for cell in first["cells"]] == [0.5, 0.8]
    assert next(row["unit"] for row in rows if row["measure"] == "loss") == "nats"


def measured(measure, unit, model, value, kind="all", name="all"):
    row = {"measure": measure, "title": measure, "unit": unit, "model": model, "kind": kind, "set": name, "judge": ""}
    return row | {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 9}


def test_the_table_leads_with_discrimination_and_j(view):
    more = [
        measured(measure, unit, model, 0.8, kind)
        for measure, unit, kind in (
            ("refusal_rate", "share", "harmless"),
            ("refusal_rate", "share", "harmful"),
            ("J", "share", "all"),
            ("discrimination", "score", "all"),
        )
        for model in ("base", "tuned")
    ]
    rows = tables.evaluation_rows(replace(view, evaluation=[*view.evaluation, *more]))
    assert [row["measure"] for row in rows[:4]] == ["discrimination", "J", "refusal_rate", "refusal_rate"]
    assert [tables.where(row) for row in rows[1:4]] == ["all prompts", "harmful prompts", "harmless prompts"]
    assert len(rows) == 4 + len(tables.evaluation_rows(view))


def test_the_held_out_loss_follows_j_and_the_loss_on_the_safe_set_does_not_lead(view):
    more = [
        measured("loss", "nats", "base", 1.0, "", "held_out"),
        measured("refusal_rate", "share", "base", 0.8, "harmful"),
        measured("J", "share", "base", 0.8),
    ]
    rows = tables.evaluation_rows(replace(view, evaluation=[*view.evaluation, *more]))
    assert [(row["measure"], row["set"]) for row in rows[:3]] == [
        ("J", "all"),
        ("loss", "held_out"),
        ("refusal_rate", "all"),
    ]
    assert ("loss", "safe") in [(row["measure"], row["set"]) for row in rows[3:]]


def test_the_place_of_a_measure_is_its_kind_and_set():
    places = [("harmful", "all"), ("harmless", "xstest"), ("", "held_out"), ("task", "gsm8k")]
    shown = [tables.where({"kind": kind, "set": name}) for kind, name in places]
    assert shown == ["harmful prompts", "harmless prompts of xstest", "held-out", "gsm8k"]


def test_a_model_without_a_measure_has_no_cell(view):
    rows = [row for row in view.evaluation if (row["model"], row["measure"]) != ("base", "loss")]
    (loss,) = (row for row in tables.evaluation_rows(replace(view, evaluation=rows)) if row["measure"] == "loss")
    assert loss["cells"][0] is None and loss["cells"][1]["value"] == 1.125 and loss["n"] == 9


def test_prompts_with_different_verdicts_come_first(view):
    prompts = tables.responses_by_prompt(view)
    assert [prompt["first"].id for prompt in prompts] == ["p2", "p4", "p0"]
    assert [prompt["changed"] for prompt in prompts] == [True, True, False]
    assert [entry["response"].model for entry in prompts[0]["responses"]] == ["base", "tuned"]
