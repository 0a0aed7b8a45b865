"""From the files of a run to results.json, the short table and what the report shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core.string_array import StringArray
from sealtune.core.types import Drop, Labels, Response, Scores, Verdict
from sealtune.data.row_store import Samples
from sealtune.evaluation import metrics
from sealtune.ranking import selection
from sealtune.report.view import ReportView

if TYPE_CHECKING:
    from sealtune.pipeline.folder import RunFolder
    from sealtune.pipeline.run import Run


def collect(run: Run) -> dict[str, Any]:
    """results.json: rows, how well the ranking finds labelled rows, the evaluation table, and the cost."""
    scores = run.folder.read_scores()
    stages = run.folder.manifest()["stages"]
    kept = run.folder.kept_ids() if "select" in stages else None
    rows = {"ranked": len(scores), "unusable": len(LeftOut(run.folder))}
    if kept is not None:
        rows |= {"kept": len(kept), "dropped": len(scores) - len(kept)}
    cost = {name: {k: e.get(k) for k in ("seconds", "tokens", "peak_memory_bytes")} for name, e in stages.items()}
    return {
        "model": run.config.model_name_or_path,
        "method": run.config.rank.method,
        "seed": run.config.seed,
        "rows": rows,
        "ranking": ranking_quality(scores, run.material.labels(), kept),
        "uncertainty": uncertainty(scores, kept),
        "evaluation": run.folder.read_json("evaluate/results.json") if "evaluate" in stages else [],
        "cost": cost,
    }


class LeftOut(Collection[Drop]):
    """Candidates that could not be used, as the ranking wrote them down; read anew each time, never gathered."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.count = sum(1 for _ in self)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Drop]:
        for found in self.folder.stream_jsonl("rank/drops.jsonl"):
            if found["set"] == "candidates":
                yield Drop(found["id"], found["source"], found["reason"], found["detail"], row={})

    def __contains__(self, row: object) -> bool:
        return any(row == drop for drop in self)


def ranking_quality(
    scores: Scores, labels: Mapping[str, int] | None, kept: Collection[str] | None
) -> dict[str, Any] | None:
    """How well low scores find the rows labelled 1; None without labels."""
    if labels is None:
        return None
    unsafe = Labels.known(labels).of(scores.ids)
    total = int(unsafe.sum())
    quality: dict[str, Any] = {
        "unsafe_rows": total,
        "auroc": metrics.auroc(scores.score, unsafe),
        "average_precision": metrics.average_precision(scores.score, unsafe),
        "recall_at_k": metrics.recall_at_k(scores.score, unsafe, total),
        "recall_in_lowest_20_percent": metrics.recall_in_lowest(scores.score, unsafe, 0.2),
    }
    if kept is not None and total:
        lost = unsafe[~StringArray.of(scores.ids).isin(kept)].sum()
        quality |= {"unsafe_rows_dropped": int(lost), "recall_in_dropped": float(lost / total)}
    return quality


def uncertainty(scores: Scores, kept: Collection[str] | None) -> dict[str, Any]:
    """How sure the ranking is, and how many rows seem unsafe; None where the ranker does not tell."""
    found = selection.contamination(scores)
    return {
        "reliability": selection.reliability(scores),
        "borderline_rows": len(selection.borderline(scores, kept))
        if kept and scores.standard_error is not None
        else None,
        "estimated_unsafe": found._asdict() if found else None,
    }


def view(run: Run, results: dict[str, Any]) -> ReportView:
    """What the page shows of the run."""
    folder, manifest = run.folder, run.folder.manifest()
    scores = folder.read_scores()
    kept = folder.kept_ids() if "kept" in results["rows"] else StringArray.of(())
    return ReportView(
        title=run.config.report.title,
        config=manifest["config"],
        manifest={k: v for k, v in manifest.items() if k != "config"},
        scores=scores,
        texts=_Conversations(run.material.rows.samples),
        kept=kept,
        borderline=selection.borderline(scores, kept),
        uncertainty=results["uncertainty"],
        drops=LeftOut(folder),
        rank_steps=folder.read_jsonl("rank/log.jsonl"),
        tune_steps=folder.read_jsonl("tune/log.jsonl"),
        evaluation=results["evaluation"],
        responses=folder.read_records("evaluate/responses.jsonl", Response),
        verdicts=folder.read_records("evaluate/verdicts.jsonl", Verdict),
        labels=run.material.labels(),
        rows_shown=run.config.report.rows_shown,
    )


class _Conversations(Mapping[str, tuple[str, str]]):
    """Prompt and response of each id, read when they are asked for: a page shows those of few rows."""

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
