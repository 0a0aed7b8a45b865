"""The guard on the page: what was watched while the model was tuned, and which step was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sealtune.report.figures import Figure, Series, curves, is_number
from sealtune.report.html import format_number
from sealtune.report.view import ReportView

MODES = {
    "teach": "the safe answers are learned in every step",
    "keep": "the start model's predictions on the safe rows are kept",
    "auto": "safe rows on which the start model does not do as the safe answer does are learned, on the others its "
    "predictions are kept",
}
OFF = (
    "Off: only the choice of rows protects the tuned model: the safe set was not in force while it was tuned, "
    "and fine-tuning undoes refusals even on harmless rows (tune.guard)."
)
PANELS: Mapping[str, Sequence[Series]] = {
    "task loss": [Series("loss", "task loss")],
    "distance": [
        Series("watched refuse", "rows that refuse", "points"),
        Series("watched help", "rows that help", "points"),
    ],
    "lambda": [
        Series("lambda_refuse", "lambda, rows that refuse", "steps"),
        Series("lambda_help", "lambda, rows that help", "steps"),
    ],
    "J": [Series("watched J", "J", "points")],
}


def guard_figure(view: ReportView) -> Figure | None:
    """Task loss, distances and J of the rows that are watched, and lambda, over the steps."""
    history = _history(view.guard)
    if not history:
        return None
    watched = [
        {"step": record.get("step", i)} | {f"watched {name}": value for name, value in record.items()}
        for i, record in enumerate(history)
    ]
    figure = curves([*view.tune_steps, *watched], PANELS, even=True)
    kept = (view.guard or {}).get("kept_step")
    return figure | {"mark": kept} if figure and is_number(kept) else figure


def guard_sentence(guard: Mapping[str, Any] | None) -> str:
    """How the safe set was in force, which step was kept and why; empty before the fine-tuning."""
    if guard is None:
        return ""
    history = _history(guard)
    if not history:
        return OFF
    mode = str(guard.get("mode"))
    first = f"Mode {mode}: {MODES[mode]}." if mode in MODES else f"Mode {mode}."
    return " ".join(filter(None, (first, _kept_sentence(guard, history))))


def guard_note(guard: Mapping[str, Any] | None) -> str:
    """Mode and step in a few words, for the terminal; empty before the fine-tuning."""
    if guard is None:
        return ""
    history, mode = _history(guard), str(guard.get("mode"))
    if not history:
        return "off: the safe set was not in force"
    return f"{mode}, step {_of(guard)} kept" if is_number(guard.get("kept_step")) else mode


def _kept_sentence(guard: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    kept = guard.get("kept_step")
    if not is_number(kept):
        return ""
    start = history[0].get("J")
    own = next((record.get("J") for record in history if record.get("step") == kept), None)
    step = f"Step {_of(guard)} was kept"
    if not (is_number(start) and is_number(own)):
        return f"{step}. J was not measured."
    values = f"{format_number(start)} → {format_number(own)}"
    return f"{step}{_reason(guard, history, start, own)}: {values} (start model → kept, on safe rows not learned from)."


def _reason(guard: Mapping[str, Any], history: Sequence[Mapping[str, Any]], start: Any, own: Any) -> str:
    """Why this step was kept, from the start model's J and its own."""
    tolerance = guard.get("tolerance")
    if not is_number(tolerance):
        return "; J"
    if own < start - tolerance:
        return f", the one with the highest J; all are more than {tolerance:g} below the start model's"
    last = "the last one, and its" if guard.get("kept_step") == history[-1].get("step") else "the latest one whose"
    return f", {last} J is at most {tolerance:g} below the start model's"


def _of(guard: Mapping[str, Any]) -> str:
    """The step that was kept, of how many."""
    steps: Any = guard.get("steps")
    return f"{int(guard['kept_step']):,}" + (f" of {int(steps):,}" if is_number(steps) else "")


def _history(guard: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    history: Sequence[Mapping[str, Any]] = (guard or {}).get("history") or ()
    return history
