"""The numbers of the page: pure functions from a view to what its tables and tiles say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import FloatArray, IntArray, StringArray
from sealtune.core.types import Drop, Labels
from sealtune.evaluation.metrics import auroc, average_precision, recall_at_k
from sealtune.ranking.selection import lowest_kept
from sealtune.report.html import show_number, show_percent
from sealtune.report.view import ReportView

ANSWERS_SHOWN = 60


class Tile(NamedTuple):
    """One headline number: its name, its value, and what to know about it."""

    name: str
    value: str
    note: str


def headline(view: ReportView) -> list[Tile]:
    """The tiles at the top of the page: rows first, then safety, then losses."""
    return [*_row_tiles(view), *_label_tiles(view), *_evaluation_tiles(view)]


def ranked_rows(view: ReportView, lowest: bool) -> list[dict[str, Any]]:
    """The ``rows_shown`` rows at one end of the ranking, the most extreme first, with all that is known of each."""
    order = np.argsort(view.scores.score, kind="stable")
    chosen = (order if lowest else order[::-1])[: view.rows_shown]
    return [_describe_row(view, int(i)) for i in chosen]


def unsure_rows(view: ReportView) -> list[dict[str, Any]]:
    """Up to ``rows_shown`` of the rows near the threshold, the nearest first."""
    cut = threshold(view)
    if cut is None:
        return []
    near = np.flatnonzero(StringArray.of(view.scores.ids).isin(view.borderline))
    nearest = near[np.argsort(np.abs(view.scores.score[near] - cut), kind="stable")]
    return [_describe_row(view, int(i)) for i in nearest[: view.rows_shown]]


def sureness_tiles(view: ReportView) -> list[Tile]:
    """How sure the ranking is, as far as the ranker tells."""
    sure, tiles = view.uncertainty, []
    if (found := sure.get("estimated_unsafe")) is not None:
        note = f"between {show_percent(found['low'])} and {show_percent(found['high'])}"
        if not found["significant"]:
            note = f"not clearly more rows lie low than of the safe set; at most {show_percent(found['high'])}"
        tiles.append(Tile("Estimated share of unsafe rows", show_percent(found["share"]), note))
    if (share := sure.get("reliability")) is not None:
        tiles.append(Tile("Reliability", show_number(share), "1: other safe rows or epochs would rank alike"))
    if (near := sure.get("borderline_rows")) is not None:
        tiles.append(Tile("Rows near the threshold", f"{near:,}", "might as well be on the other side"))
    return tiles


def source_rows(view: ReportView) -> list[dict[str, Any]]:
    """Per source, the largest first: rows ranked, kept and dropped, mean score, and unsafe rows where known."""
    names, source = StringArray.of(view.scores.source).dictionary_encode()
    kept, truth = kept_rows(view), truth_of_rows(view)
    rows = [np.flatnonzero(source == code) for code in range(len(names))]
    described = [
        _describe_source(view, name, r, kept[r], truth[r]) for name, r in zip(names, rows, strict=True) if len(r)
    ]
    return sorted(described, key=lambda row: -int(row["rows"]))


def drop_rows(view: ReportView) -> list[dict[str, Any]]:
    """Rows left out before ranking, per reason, the most frequent first, with one example of each."""
    counts: Counter[str] = Counter()
    example: dict[str, Drop] = {}
    for drop in view.drops:
        counts[drop.reason] += 1
        example.setdefault(drop.reason, drop)
    return [{"reason": reason, "rows": rows, "example": example[reason]} for reason, rows in counts.most_common()]


def labelled(view: ReportView) -> tuple[FloatArray, IntArray] | None:
    """Scores and labels of the ranked rows whose truth is known, or None where it is known of no row."""
    truth = truth_of_rows(view)
    known = truth >= 0
    return (view.scores.score[known], truth[known]) if known.any() else None


def truth_of_rows(view: ReportView) -> IntArray:
    """1 for each ranked row that is unsafe, 0 for a safe one, -1 where it is not known, (N,)."""
    return Labels.from_mapping(view.labels or {}).lookup(view.scores.ids)


def kept_rows(view: ReportView) -> npt.NDArray[np.bool_]:
    """Which of the ranked rows were kept, (N,)."""
    return StringArray.of(view.scores.ids).isin(view.kept)


def label_measures(view: ReportView) -> list[Tile]:
    """How well low scores find the unsafe rows: AUROC, average precision, recall in the dropped share and at k."""
    known = labelled(view)
    if known is None:
        return []
    score, unsafe = known
    base, count = float(unsafe.mean()), int(unsafe.sum())
    tiles = [
        Tile(
            "AUROC", show_number(auroc(score, unsafe)), "chance that an unsafe row scores below a safe one; .5 is luck"
        ),
        Tile("Average precision", show_number(average_precision(score, unsafe)), f"luck would give {base:.3f}"),
    ]
    if view.selected:
        tiles.append(_dropped_recall(view))
    ks = sorted({k for k in (50, 100, 500, count) if 0 < k <= len(score)})
    notes = {k: f"at best {show_percent(min(1.0, k / count))}" if count else "" for k in ks}
    return tiles + [Tile(f"Recall at {k:,}", show_percent(recall_at_k(score, unsafe, k)), notes[k]) for k in ks]


def model_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models of an evaluation in the order seen, ``base`` first."""
    return sorted(dict.fromkeys(str(row["model"]) for row in rows), key=lambda name: name != "base")


def evaluation_rows(view: ReportView) -> list[dict[str, Any]]:
    """One row a measure, set and judge, with a cell a model (``cells``, in the order of ``model_names``, or None)."""
    models = model_names(view.evaluation)
    grouped: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in view.evaluation:
        key = tuple(str(row.get(name) or "") for name in ("measure", "kind", "set", "judge"))
        grouped.setdefault(key, {})[str(row["model"])] = row
    return [
        {"measure": key[0], "kind": key[1], "set": key[2], "judge": key[3], "cells": [cells.get(m) for m in models]}
        for key, cells in sorted(grouped.items(), key=lambda item: (*item[0][:2], item[0][2] != "all", item[0][2:]))
    ]


def answers(view: ReportView) -> list[dict[str, Any]]:
    """Prompts with the answer of each model and the judges' words; those whose verdict changed come first."""
    flags: dict[tuple[str, str], list[Any]] = {}
    for verdict in view.verdicts:
        flags.setdefault((verdict.id, verdict.model), []).append(verdict)
    prompts: dict[str, dict[str, Any]] = {}
    for response in view.responses:
        entry = prompts.setdefault(response.id, {"first": response, "answers": []})
        entry["answers"].append({"response": response, "verdicts": flags.get((response.id, response.model), [])})
    for entry in prompts.values():
        seen = {tuple((v.judge, v.flagged) for v in answer["verdicts"]) for answer in entry["answers"]}
        entry["changed"] = len(seen) > 1
    return sorted(prompts.values(), key=lambda entry: not entry["changed"])


def threshold(view: ReportView) -> float | None:
    """The lowest score that was kept, or None before selection."""
    return lowest_kept(view.scores, view.kept)


def _row_tiles(view: ReportView) -> list[Tile]:
    ranked = len(view.scores)
    tiles = [Tile("Rows ranked", f"{ranked:,}", f"{len(view.drops):,} left out before ranking")] if ranked else []
    if view.selected:
        kept = int(kept_rows(view).sum())
        tiles.append(Tile("Kept", f"{kept:,}", show_percent(kept / ranked if ranked else None)))
        tiles.append(Tile("Dropped by rank", f"{ranked - kept:,}", show_percent(1 - kept / ranked if ranked else None)))
    return tiles


def _label_tiles(view: ReportView) -> list[Tile]:
    known = labelled(view)
    if known is None:
        return []
    area = Tile("AUROC", show_number(auroc(*known)), "of unsafe rows by low score; .5 is luck")
    return [_dropped_recall(view), area] if view.selected else [area]


def _dropped_recall(view: ReportView) -> Tile:
    unsafe = truth_of_rows(view) == 1
    total, dropped = int(unsafe.sum()), int((unsafe & ~kept_rows(view)).sum())
    share = dropped / total if total else None
    return Tile("Unsafe rows dropped", show_percent(share), f"{dropped:,} of {total:,} known unsafe rows")


def _evaluation_tiles(view: ReportView) -> list[Tile]:
    names = {
        ("compliance", "all"): "Harmful compliance",
        ("over_refusal", "all"): "Over-refusal",
        ("loss", "safe"): "Safe loss",
        ("loss", "held_out"): "Held-out loss",
    }
    rows = evaluation_rows(view)
    tiles = []
    for (measure, name), title in names.items():
        found = next((row for row in rows if (row["measure"], row["set"]) == (measure, name)), None)
        if found:
            show = show_number if measure == "loss" else show_percent
            values = [show(cell["value"]) for cell in found["cells"] if cell]
            models = [model for model, cell in zip(model_names(view.evaluation), found["cells"], strict=True) if cell]
            unit = "nats per token, " if measure == "loss" else ""
            tiles.append(Tile(title, " → ".join(values), f"{unit}{' → '.join(models)}; lower is better"))
    return tiles


def _describe_row(view: ReportView, i: int) -> dict[str, Any]:
    scores = view.scores
    identity = scores.ids[i]
    prompt, response = view.texts.get(identity, ("", ""))
    return {
        "id": identity,
        "source": scores.source[i],
        "prompt": prompt,
        "response": response,
        "score": float(scores.score[i]),
        "weight": float(scores.weight[i]),
        "loss": float(scores.loss[i]),
        "gap": float(scores.gap[i]),
        "state": _state(view, identity),
        "unsure": identity in view.borderline,
        "label": {0: "safe", 1: "unsafe"}.get((view.labels or {}).get(identity, -1)),
    }


def _state(view: ReportView, identity: str) -> str | None:
    if not view.selected:
        return None
    return "kept" if identity in view.kept else "dropped"


def _describe_source(
    view: ReportView, name: str, rows: IntArray, kept: npt.NDArray[np.bool_], truth: IntArray
) -> dict[str, Any]:
    count = int(kept.sum())
    return {
        "source": name,
        "rows": len(rows),
        "kept": count if view.selected else None,
        "dropped": len(rows) - count if view.selected else None,
        "share": count / len(rows) if view.selected else math.nan,
        "score": float(view.scores.score[rows].mean()),
        "unsafe": int((truth == 1).sum()) if view.labels is not None else None,
    }
