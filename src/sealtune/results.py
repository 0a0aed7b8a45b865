"""From the files of a run to results.json, the short table and what the report shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sealtune import selection
from sealtune.data.row_store import Samples
from sealtune.evaluation import metrics
from sealtune.records import Drop, Labels, Response, Scores, Verdict
from sealtune.report.view import ReportView
from sealtune.telling import printable
from sealtune.texts import Texts

if TYPE_CHECKING:
    from rich.table import Table

    from sealtune.pipeline import Run
    from sealtune.store import RunFolder


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
        "sureness": sureness(scores, kept),
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
        lost = unsafe[~Texts.of(scores.ids).among(kept)].sum()
        quality |= {"unsafe_rows_dropped": int(lost), "recall_in_dropped": float(lost / total)}
    return quality


def sureness(scores: Scores, kept: Collection[str] | None) -> dict[str, Any]:
    """How sure the ranking is, and how many rows seem unsafe; None where the ranker does not tell."""
    found = selection.contamination(scores)
    return {
        "reliability": selection.reliability(scores),
        "rows_near_the_threshold": len(selection.unsure(scores, kept)) if kept and scores.doubt is not None else None,
        "estimated_unsafe": found._asdict() if found else None,
    }


def view(run: Run, results: dict[str, Any]) -> ReportView:
    """What the page shows of the run."""
    folder, manifest = run.folder, run.folder.manifest()
    scores = folder.read_scores()
    kept = folder.kept_ids() if "kept" in results["rows"] else Texts.of(())
    return ReportView(
        title=run.config.report.title,
        config=manifest["config"],
        manifest={k: v for k, v in manifest.items() if k != "config"},
        scores=scores,
        texts=_Conversations(run.material.rows.samples),
        kept=kept,
        unsure=selection.unsure(scores, kept),
        sureness=results["sureness"],
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
        place = int(self.samples.ids.find([row_id])[0])
        if place < 0:
            raise KeyError(row_id)
        sample = self.samples[place]
        return sample.prompt, sample.response

    def __iter__(self) -> Iterator[str]:
        return iter(self.samples.ids)

    def __len__(self) -> int:
        return len(self.samples)


def short_table(results: dict[str, Any]) -> Table:
    """The few figures that a user looks for first."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "before", "after", title="sealtune")
    rows, ranking = results["rows"], results["ranking"]
    table.add_row("rows", f"{rows['ranked']:,}", f"{rows.get('kept', rows['ranked']):,}")
    if ranking:
        dropped = ranking.get("unsafe_rows_dropped", 0)
        table.add_row("unsafe rows", f"{ranking['unsafe_rows']:,}", f"{ranking['unsafe_rows'] - dropped:,}")
        if ranking["auroc"] is not None:
            table.add_row("AUROC of the ranking", "", f"{ranking['auroc']:.3f}")
            table.add_row(
                "recall of unsafe rows in the dropped share", "", f"{ranking.get('recall_in_dropped', 0):.0%}"
            )
    sure = results["sureness"]
    if found := sure["estimated_unsafe"]:
        table.add_row("estimated share of unsafe rows", f"{found['share']:.0%} (at most {found['high']:.0%})", "")
    if sure["rows_near_the_threshold"] is not None:
        table.add_row("rows near the threshold", "", f"{sure['rows_near_the_threshold']:,}")
    for title, row in _measures(results["evaluation"]).items():
        table.add_row(escape(printable(title)), _show(row.get("base")), _show(row.get("tuned")))
    table.add_row("seconds", "", "  ".join(f"{name} {cost['seconds']:.0f}" for name, cost in results["cost"].items()))
    return table


def _measures(evaluation: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Title of a measure over all sets -> model -> its row."""
    titles = {
        "compliance": "harmful prompts answered",
        "over_refusal": "harmless prompts refused",
        "harm_rating": "{kind} prompts, rating of harm 1-5",
        "harmful": "{kind} prompts, harmful answers",
        "strongreject": "{kind} prompts, StrongREJECT",
        "unsafe": "{kind} prompts, unsafe answers",
        "win_rate": "{kind} prompts, win rate",
        "unparsed": "{kind} prompts, verdicts not understood",
        "declined": "{kind} prompts, judge refused",
        "failed": "{kind} prompts, judge did not answer",
    }
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in evaluation:
        if row["measure"] == "loss":
            title = f"loss on {row['set']} rows".replace("_", "-")
        elif row["kind"] == "task":
            title = f"{row['set']}, {row['measure']}"
        elif row["set"] == "all":
            title = f"{titles.get(row['measure'], row['measure']).format(kind=row['kind'])} ({row['judge']})"
        else:
            continue
        found.setdefault(title, {})[row["model"]] = row
    return found


def _show(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    form = {"loss": "{:.3f}", "harm_rating": "{:.2f}"}.get(row["measure"], "{:.0%}")
    form = "{:.3f}" if row["kind"] == "task" else form  # most are shares, a perplexity is not
    if row["low"] is None:  # one observation has no interval
        return form.format(row["value"])
    value, low, high = (form.format(row[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
