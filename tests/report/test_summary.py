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
    assert list(table.columns[0].cells)[1:-1] == [
        "discrimination, all prompts",
        "J, all prompts",
        "loss on held-out rows",
        "refusal log-odds, harmful prompts",
        "refusal log-odds, harmless prompts",
        "pair margin",
    ]
