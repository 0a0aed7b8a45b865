"""The figures of the page as plain plotly data and layout; page.js applies the colours of the light or dark theme.

Row texts never enter a figure, because plotly interprets some HTML. Names of sources, sets and models do, escaped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sealtune.core.string_array import FloatArray
from sealtune.evaluation.metrics import precision_recall_curve, roc_curve
from sealtune.report.html import one_line
from sealtune.report.tables import (
    kept_mask,
    labelled_scores,
    row_labels,
    source_rows,
    threshold,
)
from sealtune.report.view import ReportView

Figure = dict[str, Any]
Steps = Sequence[Mapping[str, Any]]


class Series(NamedTuple):
    """A curve over the steps.

    Attributes:
        key: Of a step record.
        name: In the legend.
        colour: Of the line.
        style: ``average``: per step in a pale line, with its moving average; ``steps``: a schedule, as a step function;
            ``points``: what is measured now and then.
    """

    key: str
    name: str
    colour: str
    style: Literal["average", "steps", "points"] = "average"


# Distinguishable with all common forms of colour blindness, on white and on near-black.
BLUE, ORANGE, TEAL, PURPLE, GREY = "#3a86c8", "#dd7a1a", "#1f9e82", "#a06cc4", "#8b929c"
MAX_BINS = 60
MAX_POINTS = 600
MAX_SOURCES = 20


def score_histogram(view: ReportView) -> Figure | None:
    """The distribution of the scores, coloured by label if rows are labelled, otherwise by kept and dropped."""
    score = view.scores.score
    if not len(score):
        return None
    edges = np.histogram_bin_edges(score, min(MAX_BINS, math.ceil(2.5 * math.sqrt(len(score)))))
    centres = ((edges[:-1] + edges[1:]) / 2).tolist()
    figure = go.Figure()
    for name, colour, mask in _score_groups(view):
        counts = np.histogram(score[mask], edges)[0].tolist()
        figure.add_bar(x=centres, y=counts, width=np.diff(edges).tolist(), name=name, marker_color=colour)
    _mark_threshold(figure, threshold(view))
    figure.update_layout(barmode="stack", xaxis_title="score (higher = keep)", yaxis_title="rows", bargap=0)
    return finish(figure, 320)


def rank_curves(view: ReportView) -> Figure | None:
    """The losses of the ranking per step, with the gap and gamma below if they were logged."""
    losses = [
        Series("safe_loss", "safe set", BLUE),
        Series("candidate_loss", "candidates, theta", ORANGE),
        Series("hat_loss", "candidates, theta-hat", TEAL),
    ]
    gap, gamma = Series("gap", "gap", PURPLE), Series("gamma", "gamma", GREY, "steps")
    return _curves(view.rank_steps, {"nats per token": losses, "gap": [gap], "gamma": [gamma]})


def tune_curves(view: ReportView) -> Figure | None:
    """The loss and the learning rate of the final fine-tuning per step."""
    loss, rate = Series("loss", "training loss", BLUE), Series("learning_rate", "learning rate", GREY, "steps")
    return _curves(view.tune_steps, {"nats per token": [loss], "learning rate": [rate]})


def source_bars(view: ReportView) -> Figure | None:
    """Kept and dropped rows per source, for the MAX_SOURCES largest sources."""
    rows = source_rows(view)[:MAX_SOURCES][::-1] if view.has_selection else []
    if not rows:
        return None
    names = [one_line(row["source"], 28) for row in rows]
    figure = go.Figure()
    for key, colour in (("kept", BLUE), ("dropped", ORANGE)):
        figure.add_bar(y=names, x=[row[key] for row in rows], name=key, orientation="h", marker_color=colour)
    figure.update_layout(barmode="stack", xaxis_title="rows", bargap=0.35)
    return finish(figure, 130 + 32 * len(rows))


def roc_figure(view: ReportView) -> Figure | None:
    """The ROC curve of unsafe rows flagged by low score; None if a class is absent."""
    labelled = labelled_scores(view)
    curve = roc_curve(*labelled) if labelled else None
    if curve is None:
        return None
    return _unit_square(*curve, ([0, 1], [0, 1]), ("false positive rate", "true positive rate"), BLUE)


def precision_figure(view: ReportView) -> Figure | None:
    """The precision-recall curve of unsafe rows flagged by low score; None without an unsafe row."""
    labelled = labelled_scores(view)
    curve = precision_recall_curve(*labelled) if labelled else None
    if labelled is None or curve is None:
        return None
    base = float(labelled[1].mean())
    return _unit_square(curve[1], curve[0], ([0, 1], [base, base]), ("recall", "precision"), ORANGE)


def finish(figure: Any, height: int) -> Figure:
    """The figure as plain data, without plotly's template, its legend above the plot."""
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


def is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max  # integers have no largest value


def _score_groups(view: ReportView) -> list[tuple[str, str, Any]]:
    """Name, colour and mask of each group of the histogram."""
    if view.labels:
        labels = row_labels(view)
        groups = [("safe", BLUE, labels == 0), ("unsafe", ORANGE, labels == 1), ("unlabelled", GREY, labels == -1)]
    elif view.has_selection:
        kept = kept_mask(view)
        groups = [("kept", BLUE, kept), ("dropped", ORANGE, ~kept)]
    else:
        groups = [("rows", BLUE, np.ones(len(view.scores), bool))]
    return [group for group in groups if group[2].any()]


def _mark_threshold(figure: Any, cut: float | None) -> None:
    if cut is None:
        return
    figure.add_vline(cut, line={"dash": "dash", "width": 1.5, "color": GREY})
    for text, side in (("← dropped ", "right"), (" kept →", "left")):
        figure.add_annotation(x=cut, y=1.08, yref="paper", text=text, showarrow=False, xanchor=side)


def _curves(steps: Steps, shown: Mapping[str, Sequence[Series]]) -> Figure | None:
    """Panels over the steps, the first one the highest."""
    figure = panels(steps, shown)
    return finish(figure, 230 + 95 * len(list(figure.select_xaxes()))) if figure else None


def panels(steps: Steps, series_of: Mapping[str, Sequence[Series]], *, even: bool = False) -> Any:
    """A figure with one panel per y axis title, stacked over the steps; None without values.

    Panels and series without values are left out. Unless they are ``even``, the first panel is the highest.
    """
    shown = {title: [one for one in series if _is_logged(steps, one.key)] for title, series in series_of.items()}
    shown = {title: series for title, series in shown.items() if series}
    if not shown:
        return None
    count = len(shown)
    heights = [1 / count] * count if even or count == 1 else [0.6, *[0.4 / (count - 1)] * (count - 1)]
    figure = make_subplots(count, 1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.07)
    for panel, (title, series) in enumerate(shown.items(), 1):
        figure.add_traces([line for one in series for line in _lines(steps, one)], rows=panel, cols=1)
        figure.update_yaxes(title_text=title, exponentformat="power", row=panel, col=1)
    figure.update_xaxes(title_text="step", row=count, col=1)
    return figure


def _lines(steps: Steps, series: Series) -> list[Any]:
    """The line of a series, or two."""
    key, name, colour, style = series
    points = [(s.get("step", i), s[key]) for i, s in enumerate(steps, 1) if is_number(s.get(key))]
    x, y = (np.array(part, np.float64) for part in zip(*points, strict=True))
    if style == "steps":
        return [_line(x, y, name, {"color": colour, "shape": "hv"}, showlegend=False)]
    if style == "points":
        return [_line(x, y, name, {"color": colour}).update(mode="lines+markers")]
    pale = _line(x, y, f"{name}, per step", {"color": colour, "width": 1}, showlegend=False, opacity=0.3)
    return [pale, _line(x, _moving_average(y), name, {"color": colour})]


def _unit_square(x: FloatArray, y: FloatArray, chance: Any, titles: tuple[str, str], colour: str) -> Figure:
    """A curve between 0 and 1 on both axes, with the dotted line of a random ranking."""
    random = _line(chance[0], chance[1], "random ranking", {"color": GREY, "dash": "dot"})
    figure = go.Figure([random, _line(x, y, titles[1], {"color": colour})])
    figure.update_xaxes(title_text=titles[0], range=[-0.01, 1.01])
    figure.update_yaxes(title_text=titles[1], range=[-0.01, 1.03])
    figure.update_layout(showlegend=False)
    return finish(figure, 320)


def _line(x: Any, y: Any, name: str, style: Mapping[str, Any], **options: Any) -> Any:
    return go.Scatter(x=_subsample(x), y=_subsample(y), name=name, mode="lines", line={"width": 2, **style}, **options)


def _moving_average(values: FloatArray) -> FloatArray:
    """A centred moving average over about a twentieth of the values, with shorter windows at the ends."""
    half = max(1, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return np.asarray((total[high] - total[low]) / (high - low))


def _subsample(values: Any) -> list[float]:
    """At most MAX_POINTS of the values, evenly spaced, including both ends."""
    array = np.asarray(values, np.float64)
    return [float(f"{v:.6g}") for v in array[np.unique(np.linspace(0, len(array) - 1, MAX_POINTS).astype(int))]]


def _is_logged(steps: Steps, key: str) -> bool:
    return any(is_number(step.get(key)) for step in steps)
