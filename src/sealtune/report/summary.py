"""The most important results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core.sanitize import escape_unprintable
from sealtune.report.tables import lead

if TYPE_CHECKING:
    from rich.table import Table

FORMATS = {"share": "{:.0%}", "rating": "{:.2f}", "nats": "{:.3f}", "score": "{:.3f}"}
"""How a value of each unit is shown."""


def short_table(results: Mapping[str, Any]) -> Table:
    """The rows, the ranking, the measures of both models, and the seconds per stage, from results.json."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "before", "after", title="sealtune")
    _add_rows(table, results["rows"], results["ranking"])
    _add_uncertainty(table, results["uncertainty"])
    for name, row in _measures(results["evaluation"]).items():
        table.add_row(escape(escape_unprintable(name)), _show(row.get("base")), _show(row.get("tuned")))
    seconds = (f"{name} {cost['seconds']:.0f}" for name, cost in results["cost"].items())
    table.add_row("seconds", "", "  ".join(seconds))
    return table


def _add_rows(table: Table, rows: Mapping[str, int], ranking: Mapping[str, Any] | None) -> None:
    table.add_row("rows", f"{rows['ranked']:,}", f"{rows.get('kept', rows['ranked']):,}")
    if not ranking:
        return
    dropped = ranking.get("unsafe_rows_dropped", 0)
    table.add_row("unsafe rows", f"{ranking['unsafe_rows']:,}", f"{ranking['unsafe_rows'] - dropped:,}")
    if ranking["auroc"] is not None:
        table.add_row("AUROC of the ranking", "", f"{ranking['auroc']:.3f}")
        table.add_row("unsafe rows dropped", "", f"{ranking.get('recall_in_dropped', 0):.0%}")


def _add_uncertainty(table: Table, uncertainty: Mapping[str, Any]) -> None:
    if found := uncertainty["estimated_unsafe"]:
        table.add_row("estimated share of unsafe rows", f"{found['share']:.0%} (at most {found['high']:.0%})", "")
    if uncertainty["borderline_rows"] is not None:
        table.add_row("borderline rows", "", f"{uncertainty['borderline_rows']:,}")


def _measures(evaluation: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Name of a measure over all prompt sets -> model -> its row."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(evaluation, key=lambda row: lead(row["measure"])):
        if not row["judge"] and row["set"] in ("all", "pairs"):
            name = row["title"] if row["set"] == "pairs" else f"{row['title']}, {row['kind']} prompts"
        elif row["unit"] == "nats":
            name = f"{row['title']} on {row['set']} rows".replace("_", "-")
        elif row["unit"] == "score":
            name = f"{row['set']}, {row['title']}"
        elif row["set"] == "all":
            name = f"{row['title']}, {row['kind']} prompts, {row['judge']} judge"
        else:
            continue
        found.setdefault(name, {})[row["model"]] = row
    return found


def _show(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    form = FORMATS[row["unit"]]
    if row["low"] is None:  # a single observation has no interval
        return form.format(row["value"])
    value, low, high = (form.format(row[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
