"""The tables and lists of the page: pure functions of a view."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import FloatArray, IntArray, StringArray
from sealtune.core.types import Drop, Labels
from sealtune.ranking.selection import least_certain, lowest_kept
from sealtune.report.view import ReportView

MAX_PROMPTS = 60
"""Prompts whose responses are shown."""

KINDS = ("harmful", "harmless")
LEADING_MEASURES = (("discrimination", None), ("J", None), ("loss", "held_out"), ("refusal_rate", None))
"""What the evaluation table begins with, as measure and set (None: any): whether the model tells harmful from harmless
prompts, and whether it has learned the task.
"""
SEVERITIES = ("warning", "advice", "fine")
"""Of findings on the safe set, the most important one first."""


def lowest_rows(view: ReportView) -> list[dict[str, Any]]:
    """The ``rows_shown`` rows with the lowest scores, the lowest first."""
    order = np.argsort(view.scores.score, kind="stable")
    return [_describe_row(view, int(i)) for i in order[: view.rows_shown]]


def least_certain_rows(view: ReportView, cut: float) -> list[dict[str, Any]]:
    """The ``rows_shown`` rows about which a decision is worth most: those closest to the threshold ``cut``, relative to
    their standard error, that nobody has decided about.
    """
    rows = least_certain(view.scores, cut, view.decisions, view.rows_shown)
    return [_describe_row(view, int(i)) for i in rows]


def score_bins(view: ReportView, cut: float | None, count: int) -> list[dict[str, Any]]:
    """About ``count`` equal bins of the scores, the lowest first: from, to, rows, and how many of these are kept (None
    before the selection). The threshold ``cut`` is the border of two of them.
    """
    scores, kept = view.scores.score, kept_mask(view)
    if not len(scores):
        return []
    low, high = float(scores.min()), float(scores.max())
    width = (high - low) / count or 1.0
    start = low if cut is None else cut - math.ceil((cut - low) / width - 1e-9) * width
    bins = np.floor((scores - start) / width + 1e-9).astype(np.int64).clip(min=0)
    rows, kept_rows = (np.bincount(bins[mask], minlength=int(bins.max()) + 1) for mask in (kept | True, kept))
    return [
        {
            "from": start + i * width,
            "to": start + (i + 1) * width,
            "rows": int(rows[i]),
            "kept": int(kept_rows[i]) if view.has_selection else None,
        }
        for i in range(len(rows))
    ]


def source_rows(view: ReportView) -> list[dict[str, Any]]:
    """Per source, the largest first: rows ranked, kept and dropped, mean score, and unsafe rows if labelled."""
    names, source = StringArray.of(view.scores.source).dictionary_encode()
    kept, labels = kept_mask(view), row_labels(view)
    rows = [np.flatnonzero(source == code) for code in range(len(names))]
    described = [
        _describe_source(view, name, r, kept[r], labels[r]) for name, r in zip(names, rows, strict=True) if len(r)
    ]
    return sorted(described, key=lambda row: -int(row["rows"]))


def drop_rows(view: ReportView) -> list[dict[str, Any]]:
    """Rows excluded before ranking: the count and one example per reason, the most frequent reason first."""
    counts: Counter[str] = Counter()
    example: dict[str, Drop] = {}
    for drop in view.drops:
        counts[drop.reason] += 1
        example.setdefault(drop.reason, drop)
    return [{"reason": reason, "rows": rows, "example": example[reason]} for reason, rows in counts.most_common()]


def labelled_scores(view: ReportView) -> tuple[FloatArray, IntArray] | None:
    """Scores and labels of the labelled rows, (K,) each; None if no row is labelled."""
    labels = row_labels(view)
    known = labels >= 0
    return (view.scores.score[known], labels[known]) if known.any() else None


def row_labels(view: ReportView) -> IntArray:
    """The labels of the ranked rows, (N,): 1 = unsafe, 0 = safe, -1 = not labelled."""
    return Labels.from_mapping(view.labels or {}).lookup(view.scores.ids)


def kept_mask(view: ReportView) -> npt.NDArray[np.bool_]:
    """True for each ranked row that was kept, (N,)."""
    return StringArray.of(view.scores.ids).isin(view.kept)


def threshold(view: ReportView) -> float | None:
    """The lowest score that was kept, whatever people kept below it; None before selection."""
    return lowest_kept(view.scores, view.kept, view.decisions)


def model_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models of an evaluation table in order of appearance, ``base`` first."""
    return sorted(dict.fromkeys(str(row["model"]) for row in rows), key=lambda name: name != "base")


def evaluation_rows(view: ReportView) -> list[dict[str, Any]]:
    """One row per measure, kind, set and judge; ``cells`` has one entry per model of ``model_names``, or None."""
    models = model_names(view.evaluation)
    grouped: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in view.evaluation:
        key = tuple(str(row.get(name) or "") for name in ("measure", "kind", "set", "judge"))
        grouped.setdefault(key, {})[str(row["model"])] = row
    ordered = sorted(grouped, key=lambda key: (lead(key[0], key[2]), *key[:2], key[2] != "all", *key[2:]))
    return [_describe_measure(key, [grouped[key].get(model) for model in models]) for key in ordered]


def lead(measure: str, set_name: str) -> int:
    """The place of a measure in tables: leading measures first, all others after them."""
    places = (i for i, (name, on) in enumerate(LEADING_MEASURES) if name == measure and on in (None, set_name))
    return next(places, len(LEADING_MEASURES))


def safe_set_rows(view: ReportView) -> list[Mapping[str, Any]]:
    """What the safe set has and lacks, warnings first."""
    return sorted(view.safe_set, key=lambda finding: SEVERITIES.index(finding["severity"]))


def sources(view: ReportView) -> dict[str, str]:
    """Where the figures of other runs in the evaluation table come from, by the run's name."""
    return {str(other["name"]): str(other["source"]) for other in view.beside}


def responses_by_prompt(view: ReportView) -> list[dict[str, Any]]:
    """Prompts with the response and verdicts of each model; prompts whose verdicts differ come first."""
    verdicts: dict[tuple[str, str], list[Any]] = {}
    for verdict in view.verdicts:
        verdicts.setdefault((verdict.id, verdict.model), []).append(verdict)
    prompts: dict[str, dict[str, Any]] = {}
    for response in view.responses:
        entry = prompts.setdefault(response.id, {"first": response, "responses": []})
        entry["responses"].append({"response": response, "verdicts": verdicts.get((response.id, response.model), [])})
    for entry in prompts.values():
        distinct = {tuple((v.judge, v.flagged) for v in response["verdicts"]) for response in entry["responses"]}
        entry["changed"] = len(distinct) > 1
    return sorted(prompts.values(), key=lambda entry: not entry["changed"])


def _describe_row(view: ReportView, i: int) -> dict[str, Any]:
    scores = view.scores
    row_id = scores.ids[i]
    prompt, response = view.texts.get(row_id, ("", ""))
    return {
        "id": row_id,
        "source": scores.source[i],
        "prompt": prompt,
        "response": response,
        "score": float(scores.score[i]),
        "standard_error": None if scores.standard_error is None else float(scores.standard_error[i]),
        "weight": float(scores.weight[i]),
        "loss": float(scores.loss[i]),
        "gap": float(scores.gap[i]),
        "state": _state(view, row_id),
        "borderline": row_id in view.borderline,
        "decision": view.decisions.get(row_id),
        "label": {0: "safe", 1: "unsafe"}.get((view.labels or {}).get(row_id, -1)),
    }


def _state(view: ReportView, row_id: str) -> str | None:
    if not view.has_selection:
        return None
    return "kept" if row_id in view.kept else "dropped"


def _describe_source(
    view: ReportView, name: str, rows: IntArray, kept: npt.NDArray[np.bool_], labels: IntArray
) -> dict[str, Any]:
    count = int(kept.sum())
    return {
        "source": name,
        "rows": len(rows),
        "kept": count if view.has_selection else None,
        "dropped": len(rows) - count if view.has_selection else None,
        "share": count / len(rows) if view.has_selection else math.nan,
        "score": float(view.scores.score[rows].mean()),
        "unsafe": int((labels == 1).sum()) if view.labels is not None else None,
    }


def where(row: Mapping[str, Any]) -> str:
    """The prompts or rows on which a row of the evaluation table was measured: its kind and set."""
    kind, name = str(row.get("kind") or ""), str(row["set"]).replace("_", "-")
    return f"{kind} prompts" if name == "all" else f"{kind} prompts of {name}" if kind in KINDS else name


def _describe_measure(key: tuple[str, ...], cells: list[Mapping[str, Any] | None]) -> dict[str, Any]:
    measure, kind, name, judge = key
    first = next(cell for cell in cells if cell)
    about = {"measure": measure, "title": first["title"], "unit": first["unit"], "n": first["n"]}
    return about | {"kind": kind, "set": name, "judge": judge, "cells": cells}
