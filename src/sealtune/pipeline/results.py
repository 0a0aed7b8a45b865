"""Turns the files of a run into results.json and the view that the report shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core.errors import UserError
from sealtune.core.string_array import StringArray
from sealtune.core.types import Decision, Drop, Labels, Neighbours, Response, Scores, Verdict
from sealtune.data.row_store import Samples
from sealtune.evaluation import metrics
from sealtune.pipeline import decisions, turns, validate
from sealtune.pipeline.beside import beside
from sealtune.pipeline.manifest import Manifest, StageEntry
from sealtune.pipeline.safe_set_examination import examine_safe_set
from sealtune.pipeline.safe_set_findings import Finding
from sealtune.pipeline.stages.rank import NEIGHBOURS
from sealtune.ranking import selection
from sealtune.ranking.turns import TurnScores
from sealtune.report.view import ReportView

if TYPE_CHECKING:
    from sealtune.pipeline.folder import RunFolder
    from sealtune.pipeline.inputs import RunInputs
    from sealtune.pipeline.run import Run


class Findings(NamedTuple):
    """What the ranking and the selection left in the run folder.

    Attributes:
        manifest: The manifest.
        scores: Scores of the candidates.
        drops: Candidates that could not be used.
        kept: Ids of the rows kept; None before the selection.
        decisions: What people decided before the selection, by id.
        turns: The scores of single answers; None if whole rows were ranked.
    """

    manifest: Manifest
    scores: Scores
    drops: list[Drop]
    kept: StringArray | None
    decisions: Mapping[str, Decision]
    turns: TurnScores | None = None


def read_findings(folder: RunFolder) -> Findings:
    """Read them. Raises UserError if the run has not ranked or a file is invalid."""
    manifest = folder.manifest()
    kept = folder.kept_ids() if "select" in manifest.stages else None
    made = {} if kept is None else decisions.read_outcomes(folder)
    scores = folder.read_scores()
    by_turn = turns.read_scores(folder) if manifest.has_output("rank", turns.SCORES) else None
    return Findings(manifest, scores, _read_drops(folder), kept, made, by_turn)


def _read_drops(folder: RunFolder) -> list[Drop]:
    return [
        Drop(record["id"], record["source"], record["reason"], record["detail"], row={})
        for record in folder.iter_jsonl("rank/drops.jsonl")
        if record["set"] == "candidates"
    ]


def collect(run: Run, findings: Findings) -> dict[str, Any]:
    """results.json: counts of rows, quality of the ranking if rows are labelled, what the safe set has and lacks, what
    the guard did, the evaluation table, the figures of other runs beside it, and the cost.
    """
    stages, scores, kept = findings.manifest.stages, findings.scores, findings.kept
    rows = {"ranked": len(scores), "unusable": len(findings.drops)}
    if kept is not None:
        rows |= {"kept": len(kept), "dropped": len(scores) - len(kept)}
        if (masked := stages["select"].facts().get("masked_turns")) is not None:
            rows |= {"masked_turns": masked}
    evaluation = run.folder.read_json("evaluate/results.json") if "evaluate" in stages else []
    return {
        "model": run.config.model_name_or_path,
        "method": run.config.rank.method,
        "ranked_by": run.config.rank.origin,
        "seed": run.config.seed,
        "rows": rows,
        "ranking": ranking_quality(scores, run.inputs.load_labels(), kept),
        "decisions": None if kept is None else decisions.count(run.folder),
        "uncertainty": uncertainty(findings),
        "safe_set": safe_set(run.inputs),
        "guard": guard(run.folder, stages["tune"]) if "tune" in stages else None,
        "evaluation": evaluation,
        "beside": beside(run.config, evaluation),
        "cost": {
            name: {"seconds": e.seconds, "tokens": e.tokens, "peak_memory_bytes": e.peak_memory_bytes}
            for name, e in stages.items()
        },
    }


def ranking_quality(
    scores: Scores, labels: Mapping[str, int] | None, kept: Collection[str] | None
) -> dict[str, Any] | None:
    """How well low scores identify the rows labelled 1; None without labels."""
    if labels is None:
        return None
    unsafe = Labels.from_mapping(labels).lookup(scores.ids)
    total = int(unsafe.sum())
    quality: dict[str, Any] = {
        "unsafe_rows": total,
        "auroc": metrics.auroc(scores.score, unsafe),
        "average_precision": metrics.average_precision(scores.score, unsafe),
        "recall_at_k": metrics.recall_at_k(scores.score, unsafe, total),
        "recall_in_lowest_20_percent": metrics.recall_in_lowest(scores.score, unsafe, 0.2),
    }
    if kept is not None and total:
        dropped = unsafe[~StringArray.of(scores.ids).isin(kept)].sum()
        quality |= {"unsafe_rows_dropped": int(dropped), "recall_in_dropped": float(dropped / total)}
    return quality


def uncertainty(findings: Findings) -> dict[str, Any]:
    """Reliability of the ranking, and the estimated share of unsafe rows; None if the ranker does not estimate it."""
    scores, kept = findings.scores, findings.kept
    has_borderline = bool(kept) and scores.standard_error is not None
    found = selection.contamination(findings.turns.scores if findings.turns else scores)
    near = selection.borderline(scores, kept or (), findings.decisions)
    return {
        "reliability": selection.reliability(scores),
        "borderline_rows": len(near) if has_borderline else None,
        "estimated_unsafe": found._asdict() if found else None,
    }


def safe_set(inputs: RunInputs) -> list[dict[str, Any]]:
    """What the safe set has and lacks; the start model is not asked. Empty without a safe set."""
    if not inputs.config.safe_datasets:
        return []
    try:
        return [asdict(finding) for finding in examine_safe_set(inputs, False)]
    except UserError as error:  # a prompt set that cannot be fetched now is no reason to show no report
        finding = Finding("examination", "warning", f"the safe set was not examined: {error}", "then report again")
        return [asdict(finding)]


def guard(folder: RunFolder, entry: StageEntry) -> dict[str, Any]:
    """How the safe set was in force while the model was tuned.

    Args:
        folder: The run's.
        entry: That of the tuning in the manifest.

    Returns:
        mode (``off`` if nothing guarded the tuning), tolerance, history (what was measured on the safe rows that are
        watched, from the start model on), kept_step and steps; None where it is not known.

    Raises:
        UserError: The history is invalid.
    """
    rows = folder.read_jsonl("tune/guard.jsonl")
    history = validate.records(dict[str, float | None], rows, folder.path("tune/guard.jsonl"))
    settings, facts = entry.inputs.get("tune"), entry.facts()
    settings = settings if history and isinstance(settings, dict) else {}
    return {
        "mode": str(settings.get("guard", "off")),
        "tolerance": settings.get("guard_tolerance"),
        "history": history,
        "kept_step": facts.get("kept_step"),
        "steps": history[-1].get("step") if history else None,  # the last step is watched
    }


def result(folder: RunFolder, stages: Sequence[str]) -> dict[str, Any]:
    """What these stages have found, for scripts: the facts of each, and results.json after the report."""
    entries = folder.manifest().stages
    facts = {name: entries[name].facts() | {"outputs": sorted(entries[name].outputs)} for name in stages}
    reported = {"results": folder.read_json("results.json")} if "report" in stages else {}
    return {"run": str(folder.root), "stages": facts, **reported}


def view(run: Run, findings: Findings, results: dict[str, Any]) -> ReportView:
    """What the report shows."""
    folder = run.folder
    return ranking_view(
        run,
        findings,
        texts=Conversations(run.inputs.load_rows().samples),
        uncertainty=results["uncertainty"],
        rank_steps=folder.read_jsonl("rank/log.jsonl"),
        neighbours=(near := neighbours(folder, findings.manifest)),
        safe_texts=Conversations(run.inputs.for_ranking().load_safe().rows.samples) if near else {},
        tune_steps=folder.read_jsonl("tune/log.jsonl"),
        safe_set=results["safe_set"],
        guard=results["guard"],
        evaluation=[*results["evaluation"], *(row for other in results["beside"] for row in other["rows"])],
        beside=results["beside"],
        responses=folder.read_records("evaluate/responses.jsonl", Response),
        verdicts=folder.read_records("evaluate/verdicts.jsonl", Verdict),
        labels=run.inputs.load_labels(),
        rows_shown=run.config.report.rows_shown,
    )


def neighbours(folder: RunFolder, manifest: Manifest) -> dict[str, Neighbours]:
    """The nearest rows of each row, by id; empty if the ranking found none. Raises UserError on a damaged file."""
    if not manifest.has_output("rank", NEIGHBOURS):
        return {}
    return {found.id: found for found in folder.read_records(NEIGHBOURS, Neighbours)}


def ranking_view(run: Run, findings: Findings, **more: Any) -> ReportView:
    """The ranking and the selection, and further parts of the view."""
    manifest = findings.manifest
    kept = StringArray.of(()) if findings.kept is None else findings.kept
    return ReportView(
        title=run.config.report.title,
        config=manifest.config,
        manifest={name: value for name, value in manifest.as_dict().items() if name != "config"},
        scores=findings.scores,
        kept=kept,
        decisions=findings.decisions,
        borderline=selection.borderline(findings.scores, kept, findings.decisions),
        drops=findings.drops,
        **more,
    )


class Conversations(Mapping[str, tuple[str, str]]):
    """Prompt and response by id. They are read on access: a report shows few rows."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, row_id: str) -> tuple[str, str]:
        place = int(self.samples.ids.index_in([row_id])[0])
        if place < 0:
            raise KeyError(row_id)
        sample = self.samples[place]
        return sample.prompt, sample.response

    def __iter__(self) -> Iterator[str]:
        return iter(self.samples.ids)

    def __len__(self) -> int:
        return len(self.samples)
