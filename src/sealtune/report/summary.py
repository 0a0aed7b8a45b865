"""The few figures that a user looks for first, as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sealtune.core.sanitize import escape_unprintable

if TYPE_CHECKING:
    from rich.table import Table


def short_table(results: dict[str, Any]) -> Table:
    """The few figures that a user looks for first."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "before", "after", title="sealtune")
    rows, ranking = results["rows"], results["ranking"]
    table.add_row("rows", f"{rows['ranked']:,}", f"{rows.get('kept', rows['ranked']):,}")
    if ranking:
        dropped = ranking.get("unsafe_rows_dropped", 0)
        table.add_row("unsafe rows", f"{ranking['unsafe_rows']:,}", f"{ranking['unsafe_rows'] - dropped:,}")
        if ranking["auroc"] is not None:
            table.add_row("AUROC of the ranking", "", f"{ranking['auroc']:.3f}")
            table.add_row(
                "recall of unsafe rows in the dropped share", "", f"{ranking.get('recall_in_dropped', 0):.0%}"
            )
    sure = results["uncertainty"]
    if found := sure["estimated_unsafe"]:
        table.add_row("estimated share of unsafe rows", f"{found['share']:.0%} (at most {found['high']:.0%})", "")
    if sure["borderline_rows"] is not None:
        table.add_row("rows near the threshold", "", f"{sure['borderline_rows']:,}")
    for title, row in _measures(results["evaluation"]).items():
        table.add_row(escape(escape_unprintable(title)), _show(row.get("base")), _show(row.get("tuned")))
    table.add_row("seconds", "", "  ".join(f"{name} {cost['seconds']:.0f}" for name, cost in results["cost"].items()))
    return table


def _measures(evaluation: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Title of a measure over all sets -> model -> its row."""
    titles = {
        "compliance": "harmful prompts answered",
        "over_refusal": "harmless prompts refused",
        "harm_rating": "{kind} prompts, rating of harm 1-5",
        "harmful": "{kind} prompts, harmful answers",
        "strongreject": "{kind} prompts, StrongREJECT",
        "unsafe": "{kind} prompts, unsafe answers",
        "win_rate": "{kind} prompts, win rate",
        "unparsed": "{kind} prompts, verdicts not understood",
        "declined": "{kind} prompts, judge refused",
        "failed": "{kind} prompts, judge did not answer",
    }
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in evaluation:
        if row["measure"] == "loss":
            title = f"loss on {row['set']} rows".replace("_", "-")
        elif row["kind"] == "task":
            title = f"{row['set']}, {row['measure']}"
        elif row["set"] == "all":
            title = f"{titles.get(row['measure'], row['measure']).format(kind=row['kind'])} ({row['judge']})"
        else:
            continue
        found.setdefault(title, {})[row["model"]] = row
    return found


def _show(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    form = {"loss": "{:.3f}", "harm_rating": "{:.2f}"}.get(row["measure"], "{:.0%}")
    form = "{:.3f}" if row["kind"] == "task" else form  # most are shares, a perplexity is not
    if row["low"] is None:  # one observation has no interval
        return form.format(row["value"])
    value, low, high = (form.format(row[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
