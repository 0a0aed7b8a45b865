import io

from rich.console import Console

from helpers.hostile_text import HOSTILE, is_harmless
from sealtune.report.summary import short_table


def test_the_table_of_results_cannot_move_the_cursor():
    row = {
        "measure": f"acc{HOSTILE}[blink]",
        "title": f"acc{HOSTILE}[blink]",
        "unit": "score",
        "kind": "task",
        "set": f"task{HOSTILE}",
        "judge": "lm-eval",
        "model": "base",
    }
    table = short_table(
        {
            "rows": {"ranked": 1},
            "ranking": None,
            "uncertainty": {"estimated_unsafe": None, "borderline_rows": None},
            "evaluation": [row | {"value": 1.0, "low": None, "high": None}],
            "cost": {},
        }
    )
    screen = Console(file=io.StringIO(), width=400)
    screen.print(table)
    assert is_harmless(screen.file.getvalue()) and "[blink]" in screen.file.getvalue()


def test_the_decisions_of_people_are_counted():
    results = {"rows": {"ranked": 9}, "ranking": None, "evaluation": [], "cost": {}}
    results["uncertainty"] = {"estimated_unsafe": None, "borderline_rows": None}
    results["decisions"] = {"kept": 3, "dropped": 5, "unsure": 1, "overruled": 4}
    screen = Console(file=io.StringIO(), width=200)
    screen.print(short_table(results))
    assert "3 kept, 5 dropped, 1 unsure; 4 against the score" in screen.file.getvalue()


def test_discrimination_and_j_are_the_first_measures():
    row = {"judge": "", "low": None, "high": None, "n": 1, "value": 0.5, "model": "base", "set": "all", "kind": "all"}
    evaluation = [
        row | {"measure": "loss", "title": "loss", "unit": "nats", "set": "held_out", "kind": ""},
        row | {"measure": "log_odds", "title": "refusal log-odds", "unit": "nats", "kind": "harmful"},
        row | {"measure": "log_odds", "title": "refusal log-odds", "unit": "nats", "kind": "harmless"},
        row | {"measure": "pair_margin", "title": "pair margin", "unit": "nats", "set": "pairs", "kind": ""},
        row | {"measure": "J", "title": "J", "unit": "share"},
        row | {"measure": "discrimination", "title": "discrimination", "unit": "score"},
    ]
    table = short_table(
        {
            "rows": {"ranked": 1},
            "ranking": None,
            "uncertainty": {"estimated_unsafe": None, "borderline_rows": None},
            "evaluation": evaluation,
            "cost": {},
        }
    )
    assert list(table.columns[0].cells)[:-2] == [
        "discrimination, all prompts",
        "J, all prompts",
        "loss on held-out rows",
        "refusal log-odds, harmful prompts",
        "refusal log-odds, harmless prompts",
        "pair margin",
    ]


def results(**changes):
    empty = {"estimated_unsafe": None, "borderline_rows": None}
    return {"rows": {"ranked": 1}, "ranking": None, "uncertainty": empty, "evaluation": [], "cost": {}} | changes


def shown(**changes):
    screen = Console(file=io.StringIO(), width=400)
    screen.print(short_table(results(**changes)))
    return screen.file.getvalue()


J = {"measure": "J", "title": "J", "unit": "share", "kind": "all", "set": "all", "judge": "", "n": 9}


def test_the_difference_to_the_start_model_stands_below_the_value():
    change = {"value": -0.05, "low": -0.11, "high": 0.02}
    row = J | {"model": "tuned", "value": 0.75, "low": 0.7, "high": 0.8, "difference": change}
    text = shown(evaluation=[row])
    assert "75% (70% to 80%)" in text and "change -5% (-11% to +2%)" in text


def test_another_run_has_a_column_and_its_source_and_notes_below():
    rows = [J | {"model": f"plain{HOSTILE}", "source": "x", "value": 0.25, "low": None, "high": 0.5}]
    other = {"name": f"plain{HOSTILE}", "source": f"runs/plain{HOSTILE}", "rows": rows, "notes": [f"[b]{HOSTILE}"]}
    text = shown(evaluation=[J | {"model": "base", "value": 0.5, "low": None, "high": None}], beside=[other])
    assert is_harmless(text)
    words = " ".join(text.split())
    assert "* plain" in words and ": from runs/plain" in words and "; [b]" in words
    (line,) = (line for line in text.splitlines() if "J, all prompts" in line)
    assert line.index("50%") < line.index("25%")


def test_the_guard_says_which_step_was_kept():
    guard = {"mode": "auto", "history": [{"step": 0.0}, {"step": 24.0}], "kept_step": 20, "steps": 24.0}
    assert "auto, step 20 of 24 kept" in shown(guard=guard)
    assert "off: the safe set was not in force" in shown(guard={"mode": "off", "history": []})
    assert "guard" not in shown(guard=None)
