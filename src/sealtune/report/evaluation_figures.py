"""The figures of the evaluation: shares, losses, and discrimination against loss, per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sealtune.report.figures import Figure, is_number, unique
from sealtune.report.html import format_measure, one_line
from sealtune.report.tables import evaluation_rows, model_names
from sealtune.report.view import ReportView


def share_dots(view: ReportView) -> Figure | None:
    """The evaluation measures that are shares, with their intervals, per model."""
    rows = [row for row in evaluation_rows(view) if row["unit"] == "share"]
    figure = _dots(view, rows, "share, with 95% interval")
    if figure:
        lowest = min([0.0, *(dot["low"] for dot in figure["dots"])])  # J may be negative
        figure |= {"percent": True, "domain": [100 * lowest, 100]}
    return figure


def loss_dots(view: ReportView) -> Figure | None:
    """The losses with their intervals, per model."""
    return _dots(view, [row for row in evaluation_rows(view) if row["measure"] == "loss"], "nats per token")


def trade_off(view: ReportView) -> Figure | None:
    """Discrimination against the loss on held-out rows, or else on the safe set: one point per model."""
    models = _shown_models(view)
    rows = {(row["measure"], row["set"]): row["cells"] for row in evaluation_rows(view)}
    name = next((name for name in ("held_out", "safe") if ("loss", name) in rows), "")
    told, losses = (rows.get(key, [None] * len(models)) for key in (("discrimination", "all"), ("loss", name)))
    points = [
        {"model": model, "start": model == "base"} | _axis("x", x) | _axis("y", y)
        for model, x, y in zip(models, losses, told, strict=True)
        if x and y
    ]
    if not points:
        return None
    x_title = f"loss on {name.replace('_', '-')} rows, nats per token"
    return {"kind": "points", "points": points, "x": x_title, "y": "discrimination"}


def _dots(view: ReportView, rows: Sequence[Mapping[str, Any]], title: str) -> Figure | None:
    """One line per row of the evaluation table, on it a dot with an interval per model."""
    if not rows:
        return None
    models = _shown_models(view)
    names = unique([one_line(f"{row['measure'].replace('_', ' ')} · {_place(row)}", 34) for row in rows])
    dots = [
        {"name": name, "model": model, "value": cell["value"], "shown": format_measure(cell["value"], row["unit"])}
        | {"low": _bound(cell, "low"), "high": _bound(cell, "high")}
        for name, row in zip(names, rows, strict=True)
        for model, cell in zip(models, row["cells"], strict=True)
        if cell
    ]
    return {"kind": "intervals", "dots": dots, "names": names, "models": models, "x": title}


def _shown_models(view: ReportView) -> list[str]:
    return unique([one_line(model, 24) for model in model_names(view.evaluation)])


def _axis(axis: str, cell: Mapping[str, Any]) -> dict[str, float]:
    """A value with the ends of its interval, on this axis."""
    return {axis: cell["value"], f"{axis}_low": _bound(cell, "low"), f"{axis}_high": _bound(cell, "high")}


def _bound(cell: Mapping[str, Any], name: str) -> Any:
    return cell[name] if is_number(cell.get(name)) else cell["value"]


def _place(row: Mapping[str, Any]) -> str:
    """The set; for refusal rates, which are measured on both kinds of prompts, also the kind."""
    if row["measure"] != "refusal_rate":
        return str(row["set"])
    return str(row["kind"]) if row["set"] == "all" else f"{row['kind']}, {row['set']}"
