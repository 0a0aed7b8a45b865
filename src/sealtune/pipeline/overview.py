"""What a run has found so far, for the terminal: after its ranking alone, its selection, or all of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core.errors import UserError
from sealtune.pipeline import decisions, results
from sealtune.pipeline.fingerprints import data_fingerprint
from sealtune.ranking import selection
from sealtune.report.tables import threshold
from sealtune.report.view import ReportView, has_stage

if TYPE_CHECKING:
    from sealtune.pipeline.results import Findings
    from sealtune.pipeline.run import Run


class Overview(NamedTuple):
    """What there is to show.

    Attributes:
        view: The ranking, the selection and the evaluation, as far as the run has got.
        threshold: The lowest score that keeps a row. Before the selection that of the config; None if there is none.
        notes: What is not shown, and why.
        decided: How many rows people kept, dropped and were unsure about; None if they decided about none.
    """

    view: ReportView
    threshold: float | None
    notes: list[str]
    decided: dict[str, int] | None


def overview(run: Run, rows: int) -> Overview:
    """What the run has found, with this many rows at each end of the ranking; writes no file.

    Raises:
        UserError: the run has not ranked, or a file of its folder is invalid.
    """
    run.folder.read_only = True
    found = results.read_findings(run.folder)
    notes: list[str] = []
    shown = _view(run, found, _texts(run, found, notes), rows)
    cut = threshold(shown) if shown.has_selection else _planned_threshold(run, found, notes)
    return Overview(shown, cut, notes, decisions.count(run.folder) if shown.has_selection else None)


def _view(run: Run, found: Findings, texts: Mapping[str, Any], rows: int) -> ReportView:
    folder, stages = run.folder, found.manifest.stages
    return results.ranking_view(
        run,
        found,
        uncertainty=results.uncertainty(found),
        guard=results.guard(folder, stages["tune"]) if "tune" in stages else None,
        evaluation=folder.read_json("evaluate/results.json") if "evaluate" in stages else [],
        rows_shown=rows,
        **texts,
    )


def _texts(run: Run, found: Findings, notes: list[str]) -> dict[str, Any]:
    """Texts and labels of the rows, which may be elsewhere by now: a ranking can be shown without."""
    try:
        ranked = found.manifest.stages["rank"].inputs.get("datasets") if "rank" in found.manifest.stages else None
        if ranked != [data_fingerprint(config) for config in run.config.datasets]:
            notes.append("The rows have changed since they were ranked: texts and labels are those of now.")
        return {"texts": results.Conversations(run.inputs.load_rows().samples), "labels": run.inputs.load_labels()}
    except UserError as error:
        notes.append(f"The texts of the rows are not shown: {error}")
        return {}


def _planned_threshold(run: Run, found: Findings, notes: list[str]) -> float | None:
    """The threshold that `sealtune select` would use now."""
    try:
        cut = selection.select(found.scores, run.config.select).threshold
    except UserError as error:
        notes.append(f"No threshold is shown: {error}")
        return None
    notes.append(f"Nothing has been selected yet; as configured, the threshold would be {cut:.3g}.")
    return cut


def as_json(found: Overview, run: Run, sentences: list[str], tables: Mapping[str, Any]) -> dict[str, Any]:
    """All of it as plain data."""
    view, kept = found.view, len(found.view.kept)
    rows = {"ranked": len(view.scores), "unusable": len(view.drops)}
    if has_stage(view, "select"):
        rows |= {"kept": kept, "dropped": len(view.scores) - kept}
    return {
        "run": str(run.folder.root),
        "model": run.config.model_name_or_path,
        "method": run.config.rank.method,
        "stages": list(view.manifest.get("stages", ())),
        "summary": sentences,
        "notes": found.notes,
        "rows": rows,
        "threshold": found.threshold,
        "selected": view.has_selection,
        "decisions": found.decided,
        "uncertainty": view.uncertainty,
        **tables,
        "evaluation": view.evaluation,
    }
