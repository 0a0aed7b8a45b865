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
