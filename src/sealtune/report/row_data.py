"""The rows of the page's browser as columns, which rows.js shows.

A page holds at most MAX_ROWS rows and TEXT_CHARACTERS of their texts. If there are more, it takes in turn the row with
the lowest score, the row closest to the threshold, and a random row, until it is full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from sealtune.core.spacing import evenly_spaced
from sealtune.core.string_array import FloatArray, IntArray, StringArray
from sealtune.core.types import Neighbours
from sealtune.report.tables import kept_mask, row_labels, threshold
from sealtune.report.view import ReportView

MAX_ROWS = 100_000
TEXT_CHARACTERS = 2_500_000
MAX_CHARACTERS = 8_000
"""Of a prompt or response; the rest is cut off."""
SAFE_CHARACTERS = 600
"""Of a safe row beside a row that is alike."""
MAX_PLACES = 4_000
"""Rows on the map."""
MAX_CUTS = 400
"""Places of the threshold slider."""
DIGITS = 3
"""Significant digits of what is only read; scores have SCORE_DIGITS, because they are compared."""
SCORE_DIGITS = 5
STATES = ("dropped", "kept", "unusable", "ranked")


def row_data(view: ReportView) -> dict[str, Any]:
    """The columns of the rows shown, their texts, and the thresholds to choose from."""
    scores, order = view.scores, by_interest(view)
    shown = order[:MAX_ROWS]
    rows = shown[np.argsort(scores.score[shown], kind="stable")]
    place_of = {int(row): place for place, row in enumerate(rows)}
    texts = [(place_of[row], *text) for row, text in _texts(view, shown.tolist())]
    names, codes = StringArray.of(scores.source).take(rows).dictionary_encode()
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores.score, kind="stable")] = np.arange(1, len(scores) + 1)
    state = np.where(kept_mask(view), 1, 0) if view.has_selection else np.full(len(scores), 3)
    errors = scores.standard_error
    return {
        "total": len(scores),
        "ids": list(StringArray.of(scores.ids).take(rows)),
        "source": {"names": names, "codes": codes.tolist()},
        "rank": ranks[rows].tolist(),
        "score": _short(scores.score[rows], SCORE_DIGITS),
        "loss": _column(scores.loss[rows]),
        "weight": _column(scores.weight[rows]) if np.ptp(scores.weight) else None,
        "gap": _column(scores.gap[rows]),
        "error": None if errors is None else _column(errors[rows]),
        "state": state[rows].tolist(),
        "states": STATES,
        "label": row_labels(view)[rows].tolist() if view.labels is not None else None,
        "parts": {name: _short(values[rows]) for name, values in scores.parts.items()},
        "texts": {"rows": [t[0] for t in texts], "prompts": [t[1] for t in texts], "responses": [t[2] for t in texts]},
        "map": _map(view, rows),
        "near": _neighbours(view, rows),
        "threshold": threshold(view),
        "cuts": cuts(view),
        "unusable": [[d.id, d.source, d.reason, d.detail] for d in list(view.drops)[: MAX_ROWS // 10]],
        "folder": str(view.config.get("output_dir", "")),
    }


def by_interest(view: ReportView) -> IntArray:
    """Positions of all rows: in turn the lowest one left, the one closest to the threshold, and a random one."""
    score, cut = view.scores.score, threshold(view)
    orders = [np.argsort(score, kind="stable"), np.random.default_rng(0).permutation(len(score))]
    if cut is not None:
        orders.insert(1, np.argsort(np.abs(score - cut), kind="stable"))
    in_turn = np.stack(orders, 1).ravel()
    _, first = np.unique(in_turn, return_index=True)
    order: IntArray = in_turn[np.sort(first)]
    return order


def cuts(view: ReportView) -> dict[str, list[Any]]:
    """Thresholds to choose from: the lowest score kept, the rows kept, and the unsafe rows dropped (with labels)."""
    order = np.argsort(view.scores.score, kind="stable")
    dropped = evenly_spaced(len(order), MAX_CUTS)
    if view.has_selection:
        dropped = np.unique(np.append(dropped, np.count_nonzero(~kept_mask(view)))).clip(max=max(0, len(order) - 1))
    if not len(order):
        return {"score": [], "kept": [], "unsafe": []}
    unsafe = np.concatenate([[0], np.cumsum(row_labels(view)[order] == 1)])
    return {
        "score": _short(view.scores.score[order[dropped]], 6),
        "kept": (len(order) - dropped).tolist(),
        "unsafe": unsafe[dropped].tolist() if view.labels is not None else [],
        "unsafe_rows": int(unsafe[-1]),
    }


def _texts(view: ReportView, rows: Iterable[int]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Prompt and response of the rows, until they are TEXT_CHARACTERS long together."""
    left = TEXT_CHARACTERS
    for row in rows:
        found = view.texts.get(view.scores.ids[row])
        if found is None:
            continue
        shown = (_cut(found[0]), _cut(found[1]))
        left -= sum(map(len, shown))
        if left < 0:
            return
        yield row, shown


def _cut(text: str, limit: int | None = None) -> str:
    limit = MAX_CHARACTERS if limit is None else limit
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text) - limit:,} more characters]"


def _map(view: ReportView, rows: IntArray) -> Mapping[str, list[Any]] | None:
    """Places, among the rows shown, of the rows on the map, and their coordinates."""
    places = view.scores.places
    if places is None:
        return None
    chosen = evenly_spaced(len(rows), MAX_PLACES)
    x, y = places[rows[chosen]].T
    return {"rows": chosen.tolist(), "x": _short(x), "y": _short(y)}


def _neighbours(view: ReportView, rows: IntArray) -> Mapping[str, Any] | None:
    """The nearest rows of each row shown, as places among these, and the nearest safe rows with their texts."""
    if not view.neighbours:
        return None
    ids = list(StringArray.of(view.scores.ids).take(rows))
    place_of = {row_id: place for place, row_id in enumerate(ids)}
    found = [view.neighbours.get(row_id, Neighbours(row_id, (), ())) for row_id in ids]
    wanted = dict.fromkeys(other for one in found for other in one.safe)
    texts = {other: text for other in wanted if (text := view.safe_texts.get(other)) is not None}
    text_of = {other: place for place, other in enumerate(texts)}
    return {
        "rows": [[place_of[other] for other in one.rows if other in place_of] for one in found],
        "safe": [[text_of[other] for other in one.safe if other in text_of] for one in found],
        "texts": [[other, *(_cut(part, SAFE_CHARACTERS) for part in text)] for other, text in texts.items()],
    }


def _column(values: FloatArray) -> list[float | None] | None:
    """The values, short; None if all are NaN."""
    return None if np.isnan(values).all() else _short(values)


def _short(values: Any, digits: int = DIGITS) -> list[float | None]:
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in np.asarray(values, np.float64)]
