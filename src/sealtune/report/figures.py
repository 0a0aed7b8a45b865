"""The figures of the page as plain data, which charts.js draws: every figure has a ``kind``.

Names of sources, sets and models enter figures with their invisible characters spelled out; row texts never do.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from sealtune.core.spacing import evenly_spaced
from sealtune.core.string_array import FloatArray
from sealtune.evaluation.metrics import precision_recall_curve, roc_curve
from sealtune.report.html import one_line
from sealtune.report.tables import kept_mask, labelled_scores, row_labels, source_rows, threshold
from sealtune.report.view import ReportView

Figure = dict[str, Any]
Steps = Sequence[Mapping[str, Any]]
Point = list[float]


class Series(NamedTuple):
    """A curve over the steps.

    Attributes:
        key: Of a step record.
        name: In the legend.
        style: ``average``: per step in a pale line, with its moving average; ``steps``: a schedule, as a step function;
            ``points``: what is measured now and then.
    """

    key: str
    name: str
    style: Literal["average", "steps", "points"] = "average"


MAX_BINS = 60
MAX_POINTS = 600
MAX_SOURCES = 20
MAX_DOTS = 1_500


def score_histogram(view: ReportView) -> Figure | None:
    """The distribution of the scores, by label if rows are labelled, otherwise by kept and dropped."""
    score = view.scores.score
    if not len(score):
        return None
    edges = np.histogram_bin_edges(score, min(MAX_BINS, math.ceil(2.5 * math.sqrt(len(score)))))
    groups = _score_groups(view)
    bins = [
        {"low": float(low), "high": float(high), "rows": int(rows), "group": name}
        for name, mask in groups
        for low, high, rows in zip(edges[:-1], edges[1:], np.histogram(score[mask], edges)[0], strict=True)
        if rows
    ]
    return {"kind": "histogram", "bins": bins, "groups": [name for name, _ in groups], "threshold": threshold(view)}


def rank_curves(view: ReportView) -> Figure | None:
    """The losses of the ranking per step, with what was logged of the gap, the weights and gamma below."""
    losses = [
        Series("safe_loss", "safe set"),
        Series("candidate_loss", "candidates, theta"),
        Series("hat_loss", "candidates, theta-hat"),
    ]
    gap, gamma = Series("gap", "gap"), Series("gamma", "gamma", "steps")
    share = Series("effective_share", "effective share of the batch")
    panels = {"nats per token": losses, "gap": [gap], "effective share": [share], "gamma": [gamma]}
    return curves(view.rank_steps, panels)


def tune_curves(view: ReportView) -> Figure | None:
    """The loss and the learning rate of the final fine-tuning per step."""
    loss, rate = Series("loss", "training loss"), Series("learning_rate", "learning rate", "steps")
    return curves(view.tune_steps, {"nats per token": [loss], "learning rate": [rate]})


def source_bars(view: ReportView) -> Figure | None:
    """Kept and dropped rows per source, for the MAX_SOURCES largest sources."""
    rows = source_rows(view)[:MAX_SOURCES] if view.has_selection else []
    if not rows:
        return None
    names = unique([one_line(row["source"], 28) for row in rows])
    groups = ("kept", "dropped")
    bars = [
        {"name": name, "group": group, "rows": row[group]}
        for name, row in zip(names, rows, strict=True)
        for group in groups
    ]
    return {"kind": "bars", "bars": bars, "names": names, "groups": groups}


def length_dots(view: ReportView) -> Figure | None:
    """The length of the answer against the score, of MAX_DOTS rows at even distances in the ranking.

    ``correlation`` is Spearman's. None with fewer than three texts, or where all have one length.
    """
    from scipy.stats import spearmanr

    order, groups = np.argsort(view.scores.score, kind="stable"), _score_groups(view)
    dots = []
    for row in order[evenly_spaced(len(order), MAX_DOTS)].tolist():
        if found := view.texts.get(view.scores.ids[row]):
            group = next(name for name, mask in groups if mask[row])
            dots.append({"x": max(1, len(found[1])), "y": float(view.scores.score[row]), "group": group})
    if len(dots) < 3 or len({dot["x"] for dot in dots}) < 2:
        return None
    correlation = float(spearmanr([dot["x"] for dot in dots], [dot["y"] for dot in dots])[0])
    return {"kind": "dots", "dots": dots, "groups": [name for name, _ in groups], "correlation": round(correlation, 2)}


def roc_figure(view: ReportView) -> Figure | None:
    """The ROC curve of unsafe rows flagged by low score; None if a class is absent."""
    labelled = labelled_scores(view)
    curve = roc_curve(*labelled) if labelled else None
    if curve is None:
        return None
    titles = {"x": "false positive rate", "y": "true positive rate", "colour": 0}
    return {"kind": "square", "points": _points(*curve), "chance": [[0, 0], [1, 1]], **titles}


def precision_figure(view: ReportView) -> Figure | None:
    """The precision-recall curve of unsafe rows flagged by low score; None without an unsafe row."""
    labelled = labelled_scores(view)
    curve = precision_recall_curve(*labelled) if labelled else None
    if labelled is None or curve is None:
        return None
    base = float(labelled[1].mean())
    titles = {"x": "recall", "y": "precision", "colour": 1}
    return {"kind": "square", "points": _points(curve[1], curve[0]), "chance": [[0, base], [1, base]], **titles}


def curves(steps: Steps, series_of: Mapping[str, Sequence[Series]], *, even: bool = False) -> Figure | None:
    """One panel per y axis title, stacked over the steps; None without values.

    Panels and series without values are left out. Unless they are ``even``, the first panel is the highest.
    """
    shown = {title: [one for one in series if _is_logged(steps, one.key)] for title, series in series_of.items()}
    panels: list[dict[str, Any]] = [
        {"title": title, "lines": [_line(steps, one) for one in series]} for title, series in shown.items() if series
    ]
    if not panels:
        return None
    places = [x for panel in panels for line in panel["lines"] for x, _ in line["points"]]
    return {"kind": "curves", "panels": panels, "even": even, "range": [min(places), max(places)]}


def is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max  # integers have no largest value


def unique(names: Sequence[str]) -> list[str]:
    """The names, told apart by a number where several are the same."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return [name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]


def _score_groups(view: ReportView) -> list[tuple[str, Any]]:
    """Name and mask of each group of the histogram."""
    if view.labels:
        labels = row_labels(view)
        groups = [("safe", labels == 0), ("unsafe", labels == 1), ("unlabelled", labels == -1)]
    elif view.has_selection:
        kept = kept_mask(view)
        groups = [("kept", kept), ("dropped", ~kept)]
    else:
        groups = [("rows", np.ones(len(view.scores), bool))]
    return [group for group in groups if group[1].any()]


def _line(steps: Steps, series: Series) -> dict[str, Any]:
    found = [(s.get("step", i), s[series.key]) for i, s in enumerate(steps, 1) if is_number(s.get(series.key))]
    x, y = (np.array(part, np.float64) for part in zip(*found, strict=True))
    line: dict[str, Any] = {"name": series.name, "style": series.style, "points": _points(x, y)}
    return line | {"average": _points(x, _moving_average(y))} if series.style == "average" else line


def _points(x: Any, y: Any) -> list[Point]:
    return [list(point) for point in zip(_subsample(x), _subsample(y), strict=True)]


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
    return [float(f"{v:.6g}") for v in array[evenly_spaced(len(array), MAX_POINTS)]]


def _is_logged(steps: Steps, key: str) -> bool:
    return any(is_number(step.get(key)) for step in steps)
