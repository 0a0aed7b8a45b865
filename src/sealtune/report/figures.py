"""The pictures of the page as plain plotly figures (data and layout); the page colours them light or dark.

No row's text enters a figure: plotly reads some HTML. Names of sources, sets and models do, flattened and escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sealtune.core.string_array import FloatArray
from sealtune.evaluation.metrics import precision_recall_curve, roc_curve
from sealtune.report.html import flatten
from sealtune.report.tables import (
    evaluation_rows,
    kept_rows,
    labelled,
    model_names,
    source_rows,
    threshold,
    truth_of_rows,
)
from sealtune.report.view import ReportView

Figure = dict[str, Any]

# Blue, orange, teal and purple keep apart for all common kinds of colour blindness, on white and on near-black.
BLUE, ORANGE, TEAL, PURPLE, GREY = "#3a86c8", "#dd7a1a", "#1f9e82", "#a06cc4", "#8b929c"
_BINS = 60
_POINTS = 600
_SOURCES = 20


def score_histogram(view: ReportView) -> Figure | None:
    """How the scores are spread, coloured by truth where it is known, else by kept and dropped."""
    score = view.scores.score
    if not len(score):
        return None
    edges = np.histogram_bin_edges(score, _BINS)
    figure = go.Figure()
    for name, colour, mask in _score_groups(view):
        counts = np.histogram(score[mask], edges)[0].tolist()
        centres = ((edges[:-1] + edges[1:]) / 2).tolist()
        figure.add_bar(x=centres, y=counts, width=np.diff(edges).tolist(), name=name, marker_color=colour)
    cut = threshold(view)
    if cut is not None:
        figure.add_vline(cut, line={"dash": "dash", "width": 1.5, "color": GREY})
        figure.add_annotation(x=cut, y=1.06, yref="paper", text="← dropped   kept →", showarrow=False)
    figure.update_layout(barmode="stack", xaxis_title="score (higher = keep)", yaxis_title="rows", bargap=0)
    return _finish(figure, 320)


def rank_curves(view: ReportView) -> Figure | None:
    """Losses of ranking over its steps, below them the gap and gamma where they were recorded."""
    steps = view.rank_steps
    losses = [
        ("safe_loss", "safe set", BLUE),
        ("candidate_loss", "candidates", ORANGE),
        ("hat_loss", "theta-hat", TEAL),
    ]
    panels = [
        ("nats per token", [line for line in losses if _has(steps, line[0])]),
        ("gap", [("gap", "gap", PURPLE)] if _has(steps, "gap") else []),
        ("gamma", [("gamma", "gamma", GREY)] if _has(steps, "gamma") else []),
    ]
    return _curves(steps, [panel for panel in panels if panel[1]])


def tune_curves(view: ReportView) -> Figure | None:
    """Loss of the final fine-tuning over its steps, and its learning rate."""
    panels = [
        ("nats per token", [("loss", "training loss", BLUE)] if _has(view.tune_steps, "loss") else []),
        ("learning rate", [("learning_rate", "rate", GREY)] if _has(view.tune_steps, "learning_rate") else []),
    ]
    return _curves(view.tune_steps, [panel for panel in panels if panel[1]])


def source_bars(view: ReportView) -> Figure | None:
    """Kept and dropped rows of each source, of the largest ones where there are many."""
    rows = source_rows(view)[:_SOURCES][::-1] if view.selected else []
    if not rows:
        return None
    names = [flatten(row["source"], 28) for row in rows]
    figure = go.Figure()
    for key, colour in (("kept", BLUE), ("dropped", ORANGE)):
        figure.add_bar(y=names, x=[row[key] for row in rows], name=key, orientation="h", marker_color=colour)
    figure.update_layout(barmode="stack", xaxis_title="rows", bargap=0.35)
    return _finish(figure, 130 + 32 * len(rows))


def roc_figure(view: ReportView) -> Figure | None:
    """Unsafe rows found against safe rows flagged, as ever more of the lowest rows are flagged."""
    known = labelled(view)
    curve = roc_curve(*known) if known else None
    if curve is None:
        return None
    return _unit_square(*curve, ([0, 1], [0, 1]), ("safe rows flagged", "unsafe rows found"), BLUE)


def precision_figure(view: ReportView) -> Figure | None:
    """Precision against recall of the unsafe rows, as ever more of the lowest rows are flagged."""
    known = labelled(view)
    curve = precision_recall_curve(*known) if known else None
    if known is None or curve is None:
        return None
    base = float(known[1].mean())
    return _unit_square(curve[1], curve[0], ([0, 1], [base, base]), ("recall", "precision"), ORANGE)


def evaluation_dots(view: ReportView, losses: bool) -> Figure | None:
    """A dot and an interval for each model and measure: losses in nats, or rates from 0 to 1."""
    shown = (row for row in evaluation_rows(view) if row["measure"] != "harm_rating")  # a rating is no rate
    rows = [row for row in shown if (row["measure"] == "loss") == losses][::-1]
    if not rows:
        return None
    figure = go.Figure()
    models = model_names(view.evaluation)
    palette = [GREY, BLUE, ORANGE, TEAL, PURPLE]
    for m, model in enumerate(models):
        shift = 0.13 * ((len(models) - 1) / 2 - m)
        cells = [(i + shift, row["cells"][m]) for i, row in enumerate(rows) if row["cells"][m]]
        figure.add_scatter(**_dots(cells), name=flatten(model, 24), marker={"color": palette[m % 5], "size": 9})
    names = [_row_name(row) for row in rows]
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[-0.6, len(rows) - 0.4])
    figure.update_xaxes(title_text="nats per token" if losses else "share of prompts, with 95 % interval")
    if not losses:
        figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    return _finish(figure, 130 + 44 * len(rows))


def _score_groups(view: ReportView) -> list[tuple[str, str, Any]]:
    """Name, colour and mask of each part of the histogram."""
    if view.labels:
        truth = truth_of_rows(view)
        groups = [("safe", BLUE, truth == 0), ("unsafe", ORANGE, truth == 1), ("unlabelled", GREY, truth == -1)]
    elif view.selected:
        kept = kept_rows(view)
        groups = [("kept", BLUE, kept), ("dropped", ORANGE, ~kept)]
    else:
        groups = [("rows", BLUE, np.ones(len(view.scores), bool))]
    return [group for group in groups if group[2].any()]


def _curves(
    steps: Sequence[Mapping[str, Any]], panels: Sequence[tuple[str, Sequence[tuple[str, str, str]]]]
) -> Figure | None:
    """One panel above another, all over the step; measured values pale, their moving average strong."""
    if not panels:
        return None
    heights = [0.6, *[0.4 / max(1, len(panels) - 1)] * (len(panels) - 1)] if len(panels) > 1 else [1.0]
    figure = make_subplots(len(panels), 1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.07)
    for row, (title, lines) in enumerate(panels, 1):
        for key, name, colour in lines:
            _add_series(figure, steps, (key, name, colour), row)
        figure.update_yaxes(title_text=title, exponentformat="power", row=row, col=1)
    figure.update_xaxes(title_text="step", row=len(panels), col=1)
    return _finish(figure, 230 + 95 * len(panels))


def _unit_square(x: FloatArray, y: FloatArray, luck: Any, titles: tuple[str, str], colour: str) -> Figure:
    """A curve between 0 and 1 on both axes, and the dotted line that luck would draw."""
    figure = make_subplots(1, 1)
    _add_line(figure, luck[0], luck[1], "luck", GREY, (1, 1), dash="dot")
    _add_line(figure, x, y, titles[1], colour, (1, 1))
    figure.update_xaxes(title_text=titles[0], range=[-0.01, 1.01])
    figure.update_yaxes(title_text=titles[1], range=[-0.01, 1.03])
    figure.update_layout(showlegend=False)
    return _finish(figure, 320)


def _add_series(figure: Any, steps: Sequence[Mapping[str, Any]], line: tuple[str, str, str], row: int) -> None:
    key, name, colour = line
    points = [(s.get("step", i), s[key]) for i, s in enumerate(steps, 1) if _is_number(s.get(key))]
    x, y = (np.array(part, np.float64) for part in zip(*points, strict=True))
    if key in ("gamma", "learning_rate"):
        _add_line(figure, x, y, name, colour, (row, 1), shape="hv", showlegend=False)
        return
    _add_line(figure, x, y, f"{name}, measured", colour, (row, 1), opacity=0.3, width=1, showlegend=False)
    _add_line(figure, x, _smooth(y), name, colour, (row, 1))


def _add_line(
    figure: Any, x: Any, y: Any, name: str, colour: str, place: tuple[int, int], *,
    dash: str = "solid", shape: str = "linear", width: float = 2, opacity: float = 1, showlegend: bool = True,
) -> None:  # fmt: skip
    style = {"color": colour, "width": width, "dash": dash, "shape": shape}
    trace = go.Scatter(
        x=_thin(x), y=_thin(y), name=name, mode="lines", line=style, opacity=opacity, showlegend=showlegend
    )
    figure.add_trace(trace, row=place[0], col=place[1])


def _smooth(values: FloatArray) -> FloatArray:
    """A centred moving average over about a twentieth of the values; shorter windows at the ends."""
    half = max(1, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return np.asarray((total[high] - total[low]) / (high - low))


def _thin(values: Any) -> list[float]:
    """At most about 600 of the values, evenly spaced, both ends among them."""
    array = np.asarray(values, np.float64)
    return [float(f"{v:.6g}") for v in array[np.unique(np.linspace(0, len(array) - 1, _POINTS).astype(int))]]


def _dots(cells: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    values = [cell["value"] for _, cell in cells]
    above = [_distance(cell.get("high"), cell["value"]) for _, cell in cells]
    below = [_distance(cell["value"], cell.get("low")) for _, cell in cells]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.6, "width": 0}
    return {"x": values, "y": [y for y, _ in cells], "mode": "markers", "error_x": bars}


def _distance(high: Any, low: Any) -> float:
    return high - low if _is_number(high) and _is_number(low) else 0.0


def _row_name(row: Mapping[str, Any]) -> str:
    name = {"over_refusal": "over-refusal", "compliance": "compliance"}.get(row["measure"], row["measure"])
    return flatten(f"{name} · {row['set']}", 26)


def _has(steps: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(_is_number(step.get(key)) for step in steps)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _finish(figure: Any, height: int) -> Figure:
    """The figure without plotly's template (the page brings its own colours), its legend above it."""
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 10, "r": 10, "t": 44, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right", "traceorder": "normal"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    plain: Figure = figure.to_plotly_json()
    return plain
