"""The most important results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sealtune.core.sanitize import escape_unprintable
from sealtune.report.guard import guard_note
from sealtune.report.tables import lead

if TYPE_CHECKING:
    from rich.table import Table

FORMATS = {"share": "{:.0%}", "rating": "{:.2f}", "nats": "{:.3f}", "score": "{:.3f}"}
"""How a value of each unit is shown."""


def short_table(results: Mapping[str, Any]) -> Table:
    """The measures of both models, and of other runs beside them, the rows, the ranking, the guard, and the seconds per
    stage, from results.json.
    """
    from rich.table import Table

    others: Sequence[Mapping[str, Any]] = results.get("beside", ())
    headers = [_safe(f"{other['name']} *") for other in others]
    table = Table(
        "what", "before", "after", *headers, title="sealtune", caption=_caption(others), caption_justify="left"
    )
    _add_measures(table, results["evaluation"], others)
    _add_rows(table, results["rows"], results["ranking"])
    if made := results.get("decisions"):
        shown = f"{made['kept']:,} kept, {made['dropped']:,} dropped, {made['unsure']:,} unsure"
        table.add_row("decisions of people", "", f"{shown}; {made['overruled']:,} against the score")
    _add_uncertainty(table, results["uncertainty"])
    if note := guard_note(results.get("guard")):
        table.add_row("guard", "", _safe(note))
    seconds = (f"{name} {cost['seconds']:.0f}" for name, cost in results["cost"].items())
    table.add_row("seconds", "", "  ".join(seconds))
    return table


def _add_measures(table: Table, evaluation: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
    rows = [*evaluation, *(row for other in others for row in other["rows"])]
    models = ["base", "tuned", *(str(other["name"]) for other in others)]
    for name, row in measures(rows).items():
        table.add_row(_safe(name), *(show(row.get(model)) for model in models))


def _add_rows(table: Table, rows: Mapping[str, int], ranking: Mapping[str, Any] | None) -> None:
    table.add_row("rows", f"{rows['ranked']:,}", f"{rows.get('kept', rows['ranked']):,}")
    if masked := rows.get("masked_turns"):
        table.add_row("answers masked", "", f"{masked:,}")
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


def measures(evaluation: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Name of a measure over all prompt sets -> model -> its row; the leading measures first."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in sorted(evaluation, key=lambda row: lead(row["measure"], row["set"])):
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


def show(row: Mapping[str, Any] | None) -> str:
    """A value with its interval and, on a line of its own, its difference to the start model."""
    if row is None:
        return ""
    form = FORMATS[row["unit"]]
    shown = _with_interval(row, form)
    return f"{shown}\nchange {_with_interval(row['difference'], _signed(form))}" if row.get("difference") else shown


def _with_interval(row: Mapping[str, Any], form: str) -> str:
    if row["low"] is None or row["high"] is None:  # a single observation has no interval
        return form.format(row["value"])
    value, low, high = (form.format(row[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _signed(form: str) -> str:
    return form.replace(":", ":+")


def _caption(others: Sequence[Mapping[str, Any]]) -> str | None:
    """Where the figures of other runs come from, and what is not comparable."""
    lines = ["; ".join((f"* {other['name']}: from {other['source']}", *other["notes"])) for other in others]
    return "\n".join(map(_safe, lines)) or None


def _safe(text: str) -> str:
    """Text that cannot move the cursor, and is not read as markup."""
    from rich.markup import escape

    return escape(escape_unprintable(text))
