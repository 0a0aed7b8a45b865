"""Turns the files of a run into results.json and the view that the report shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core.string_array import StringArray
from sealtune.core.types import Drop, Labels, Response, Scores, Verdict
from sealtune.data.row_store import Samples
from sealtune.evaluation import metrics
from sealtune.pipeline.manifest import Manifest
from sealtune.ranking import selection
from sealtune.report.view import ReportView

if TYPE_CHECKING:
    from sealtune.pipeline.folder import RunFolder
    from sealtune.pipeline.run import Run


class Findings(NamedTuple):
    """What the ranking and the selection left in the run folder.

    Attributes:
        manifest: The manifest.
        scores: Scores of the candidates.
        drops: Candidates that could not be used.
        kept: Ids of the rows kept; None before the selection.
    """

    manifest: Manifest
    scores: Scores
    drops: list[Drop]
    kept: StringArray | None


def read_findings(folder: RunFolder) -> Findings:
    """Read them. Raises UserError if the run has not ranked or a file is invalid."""
    manifest = folder.manifest()
    kept = folder.kept_ids() if "select" in manifest.stages else None
    return Findings(manifest, folder.read_scores(), _read_drops(folder), kept)


def _read_drops(folder: RunFolder) -> list[Drop]:
    return [
        Drop(record["id"], record["source"], record["reason"], record["detail"], row={})
        for record in folder.iter_jsonl("rank/drops.jsonl")
        if record["set"] == "candidates"
    ]


def collect(run: Run, findings: Findings) -> dict[str, Any]:
    """results.json: counts of rows, quality of the ranking if rows are labelled, the evaluation table, and the cost."""
    stages, scores, kept = findings.manifest.stages, findings.scores, findings.kept
    rows = {"ranked": len(scores), "unusable": len(findings.drops)}
    if kept is not None:
        rows |= {"kept": len(kept), "dropped": len(scores) - len(kept)}
    return {
        "model": run.config.model_name_or_path,
        "method": run.config.rank.method,
        "seed": run.config.seed,
        "rows": rows,
        "ranking": ranking_quality(scores, run.inputs.load_labels(), kept),
        "uncertainty": uncertainty(scores, kept),
        "evaluation": run.folder.read_json("evaluate/results.json") if "evaluate" in stages else [],
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


def uncertainty(scores: Scores, kept: Collection[str] | None) -> dict[str, Any]:
    """Reliability of the ranking, and the estimated share of unsafe rows; None if the ranker does not estimate it."""
    has_borderline = bool(kept) and scores.standard_error is not None
    found = selection.contamination(scores)
    return {
        "reliability": selection.reliability(scores),
        "borderline_rows": len(selection.borderline(scores, kept or ())) if has_borderline else None,
        "estimated_unsafe": found._asdict() if found else None,
    }


def view(run: Run, findings: Findings, results: dict[str, Any]) -> ReportView:
    """What the report shows."""
    folder, manifest = run.folder, findings.manifest
    kept = StringArray.of(()) if findings.kept is None else findings.kept
    return ReportView(
        title=run.config.report.title,
        config=manifest.config,
        manifest={name: value for name, value in manifest.as_dict().items() if name != "config"},
        scores=findings.scores,
        texts=_Conversations(run.inputs.load_rows().samples),
        kept=kept,
        borderline=selection.borderline(findings.scores, kept),
        uncertainty=results["uncertainty"],
        drops=findings.drops,
        rank_steps=folder.read_jsonl("rank/log.jsonl"),
        tune_steps=folder.read_jsonl("tune/log.jsonl"),
        evaluation=results["evaluation"],
        responses=folder.read_records("evaluate/responses.jsonl", Response),
        verdicts=folder.read_records("evaluate/verdicts.jsonl", Verdict),
        labels=run.inputs.load_labels(),
        rows_shown=run.config.report.rows_shown,
    )


class _Conversations(Mapping[str, tuple[str, str]]):
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
