"""The figures of the evaluation: shares, losses, and discrimination against loss, per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sealtune.report.figures import BLUE, GREY, ORANGE, PURPLE, TEAL, Figure, finish, is_number
from sealtune.report.html import one_line
from sealtune.report.tables import evaluation_rows, model_names
from sealtune.report.view import ReportView

MODEL_COLOURS = (GREY, BLUE, ORANGE, TEAL, PURPLE)


def share_dots(view: ReportView) -> Figure | None:
    """The evaluation measures that are shares, with their intervals, per model."""
    figure = _dots(view, [row for row in evaluation_rows(view) if row["unit"] == "share"], "share, with 95% interval")
    if figure:
        lowest = min([0.0, *(value for trace in figure["data"] for value in trace["x"])])  # J may be negative
        figure["layout"]["xaxis"] |= {"range": [lowest - 0.02, 1.02], "tickformat": ".0%"}
    return figure


def loss_dots(view: ReportView) -> Figure | None:
    """The losses with their intervals, per model."""
    return _dots(view, [row for row in evaluation_rows(view) if row["measure"] == "loss"], "nats per token")


def trade_off(view: ReportView) -> Figure | None:
    """Discrimination against the loss on held-out rows, or else on the safe set: one point per model."""
    models = model_names(view.evaluation)
    rows = {(row["measure"], row["set"]): dict(zip(models, row["cells"], strict=True)) for row in evaluation_rows(view)}
    told = rows.get(("discrimination", "all"), {})
    name = next((name for name in ("held_out", "safe") if ("loss", name) in rows), "")
    losses = rows.get(("loss", name), {})
    figure = go.Figure()
    for m, model in enumerate(models):
        if (x := losses.get(model)) and (y := told.get(model)):
            style = {
                "color": MODEL_COLOURS[m % len(MODEL_COLOURS)],
                "size": 11,
                "symbol": "diamond" if model == "base" else "circle",
            }
            figure.add_scatter(**_point(x, y), name=one_line(model, 24), marker=style)
    if not figure.data:
        return None
    figure.update_xaxes(title_text=f"loss on {name.replace('_', '-')} rows, nats per token")
    figure.update_yaxes(title_text="discrimination")
    return finish(figure, 340)


def _dots(view: ReportView, rows: list[dict[str, Any]], title: str) -> Figure | None:
    """One line per row of the evaluation table, on it a dot with an interval per model."""
    if not rows:
        return None
    rows, models = rows[::-1], model_names(view.evaluation)
    figure = go.Figure()
    for m, model in enumerate(models):
        shift = 0.13 * ((len(models) - 1) / 2 - m)
        cells = [(i + shift, row["cells"][m]) for i, row in enumerate(rows) if row["cells"][m]]
        figure.add_scatter(
            **_markers(cells),
            name=one_line(model, 24),
            marker={"color": MODEL_COLOURS[m % len(MODEL_COLOURS)], "size": 9},
        )
    names = [one_line(f"{row['measure'].replace('_', ' ')} · {_place(row)}", 34) for row in rows]
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[-0.6, len(rows) - 0.4])
    figure.update_xaxes(title_text=title)
    return finish(figure, 130 + 44 * len(rows))


def _point(x: Mapping[str, Any], y: Mapping[str, Any]) -> dict[str, Any]:
    """A point with the intervals of both values."""
    bars = [
        {
            "type": "data",
            "symmetric": False,
            "array": [_distance(cell.get("high"), cell["value"])],
            "arrayminus": [_distance(cell["value"], cell.get("low"))],
            "thickness": 1.2,
            "width": 0,
        }
        for cell in (x, y)
    ]
    return {"x": [x["value"]], "y": [y["value"]], "mode": "markers", "error_x": bars[0], "error_y": bars[1]}


def _place(row: Mapping[str, Any]) -> str:
    """The set; for refusal rates, which are measured on both kinds of prompts, also the kind."""
    if row["measure"] != "refusal_rate":
        return str(row["set"])
    return str(row["kind"]) if row["set"] == "all" else f"{row['kind']}, {row['set']}"


def _markers(cells: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    values = [cell["value"] for _, cell in cells]
    above = [_distance(cell.get("high"), cell["value"]) for _, cell in cells]
    below = [_distance(cell["value"], cell.get("low")) for _, cell in cells]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.6, "width": 0}
    return {"x": values, "y": [y for y, _ in cells], "mode": "markers", "error_x": bars}


def _distance(high: Any, low: Any) -> float:
    return high - low if is_number(high) and is_number(low) else 0.0
