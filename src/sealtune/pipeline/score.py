"""``sealtune score``: rows that were not ranked get a score from the ranker that a run has saved."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.core.config import DatasetConfig
from sealtune.core.console import say, track
from sealtune.core.errors import UserError
from sealtune.core.types import Drop, Sample, Scores
from sealtune.data.load import load
from sealtune.data.row_store import Rows
from sealtune.data.unused import Unused
from sealtune.pipeline.stages import rank

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run

FOLDER = "score"
RANKED_WITH = ("model", "model_name_or_path", "load_in_4bit", "dtype", "rank", "ranked_by")
"""What must be as it was when the rows were ranked, or scores would mean something else."""


def score(run: Run, sources: Sequence[DatasetConfig]) -> None:
    """Write score/rows.jsonl and score/scores.parquet, and say how many rows were scored, unusable and below the line.

    Raises:
        UserError: the run has not ranked, or with another model or ranker, or its ranker scores no other rows.
    """
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    methods.require_scores_unseen_rows(run.config.rank.method)
    run.folder.outputs_of("rank")
    _require_same_ranker(run)
    rows = load(sources)
    material = run.material.for_ranking
    encoded, unusable = material.encode(rows)
    with track("score") as advance:
        job = Job(
            encoded,
            encoded.take([]),
            material.config,
            lambda full: run.load_model(material.config, full=full),
            lambda record, total, state: advance(record.step, total, record.rows, record.tokens),
        )
        scores = methods.score(job, run.folder.read_selector())
    drops = Unused(rows.drops, unusable)
    threshold = run.folder.manifest()["stages"].get("select", {}).get("threshold")
    found = _scored(run, rows, scores, drops, threshold)
    run.folder.write_scores(scores, rows.positions(scores.ids), f"{FOLDER}/scores.parquet")
    run.folder.write_jsonl(f"{FOLDER}/rows.jsonl", found)
    told = f"score: {len(scores):,} rows scored, {len(drops):,} unusable"
    if threshold is not None:
        below = int((scores.score < threshold).sum())
        told += f", {below:,} below the threshold of the selection"
    say(told)


def _require_same_ranker(run: Run) -> None:
    then, now = run.folder.manifest()["stages"]["rank"]["inputs"], rank.inputs(run)
    differing = [key for key in RANKED_WITH if then.get(key) != now[key]]
    if differing:
        raise UserError(f"score: {', '.join(differing)} changed since {run.folder.root} was ranked; rank again")


def _scored(
    run: Run, rows: Rows, scores: Scores, drops: Collection[Drop], threshold: float | None
) -> Iterator[dict[str, Any]]:
    """Rows in their own schema and input order; our words under one key."""
    ranked = np.sort(run.folder.read_scores().score)

    def judged(sample: Sample, value: float) -> dict[str, Any]:
        below = float(np.searchsorted(ranked, value) / len(ranked))
        verdict = None if threshold is None else "keep" if value >= threshold else "drop"
        return {"id": sample.id, "score": value, "above_share_of_ranked_rows": below, "verdict": verdict}

    def left_out(drop: Drop) -> dict[str, Any]:
        return {"id": drop.id, "score": None, "verdict": None, "reason": f"{drop.reason}: {drop.detail}"}

    scored = rows.samples.take(rows.samples.ids.index_in(scores.ids))  # both are in input order
    found = heapq.merge(
        ((s.position, s.row, judged(s, value)) for s, value in zip(scored, scores.score.tolist(), strict=True)),
        ((drop.position, drop.row, left_out(drop)) for drop in drops),
        key=itemgetter(0),
    )
    return ({**row, "sealtune": said} for _, row, said in found)
