"""What a run has found, in sentences: pure functions of a view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sealtune.data.reasons import count_reasons, plural
from sealtune.ranking.selection import BORDERLINE
from sealtune.report.guard import guard_note
from sealtune.report.html import format_measure, format_number, format_percent
from sealtune.report.tables import evaluation_rows, model_names
from sealtune.report.tiles import HEADLINE_MEASURES, HIGHER_IS_BETTER, summary
from sealtune.report.view import ReportView, has_stage

USEFULNESS = ("loss on held_out", "over_refusal on all")
"""Headline measures of how useful a model is, as "measure on set"; all others are of its safety."""


def sentences(view: ReportView) -> list[str]:
    """How many rows look unsafe and how sure that is, what was dropped, and what the tuning did to the model."""
    parts = (summary(view), _unsafe_share(view), _certainty(view), _unusable(view), *_tuning(view))
    return [part for part in parts if part]


def _unsafe_share(view: ReportView) -> str:
    found = view.uncertainty.get("estimated_unsafe")
    if found is None:
        return "This ranker does not estimate how many rows are unsafe."
    between = f"between {format_percent(found['low'])} and {format_percent(found['high'])}"
    if found["significant"]:
        return f"About {format_percent(found['share'])} of the rows look unsafe ({between})."
    return f"It is not certain that any row is unsafe: the estimate is {format_percent(found['share'])} ({between})."


def _certainty(view: ReportView) -> str:
    share, near = view.uncertainty.get("reliability"), view.uncertainty.get("borderline_rows")
    parts = []
    if share is not None:
        parts.append(f"The reliability of the ranking is {format_number(share, 2)}; at 1 other safe rows rank alike.")
    if near is not None:
        lie = "lies" if near == 1 else "lie"
        parts.append(f"{plural(near, 'row')} {lie} within {BORDERLINE:g} standard errors of the threshold.")
    return " ".join(parts)


def _unusable(view: ReportView) -> str:
    if not view.drops:
        return ""
    return f"{plural(len(view.drops), 'row')} could not be ranked: {count_reasons(view.drops)}."


def _tuning(view: ReportView) -> Iterator[str]:
    if not has_stage(view, "tune"):
        yield "The model has not been tuned yet."
        return
    if note := guard_note(view.guard):
        yield f"The guard while tuning: {note}."
    if "tuned" not in model_names(view.evaluation):
        yield "The tuned model has not been evaluated yet."
        return
    for title, useful in (("Safety", False), ("Usefulness", True)):
        changes = [change for name, change in _changes(view) if (name in USEFULNESS) == useful]
        if changes:
            yield f"{title}, before → after tuning: {'; '.join(changes)}."


def _changes(view: ReportView) -> Iterator[tuple[str, str]]:
    """What the tuning did to each headline measure, as "measure on set" and in words."""
    models, rows = model_names(view.evaluation), evaluation_rows(view)
    for (measure, name), title in HEADLINE_MEASURES.items():
        row = next((row for row in rows if (row["measure"], row["set"]) == (measure, name)), None)
        cells = dict(zip(models, row["cells"], strict=True)) if row else {}
        before, after = cells.get("base"), cells.get("tuned")
        if row and after:
            values = " → ".join(format_measure(cell["value"], row["unit"]) for cell in (before, after) if cell)
            yield f"{measure} on {name}", f"{title} {values}{_verdict(measure, after)}"


def _verdict(measure: str, after: Mapping[str, Any]) -> str:
    """Whether the tuned model is better; without an interval of the paired difference, which direction would be."""
    found, higher = after.get("difference"), measure in HIGHER_IS_BETTER
    if not found or found.get("low") is None or found.get("high") is None:
        return f" ({'higher' if higher else 'lower'} is better)"
    if found["low"] <= 0 <= found["high"]:
        return " (no clear change)"
    return " (better)" if (found["value"] > 0) == higher else " (worse)"
