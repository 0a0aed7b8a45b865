"""``sealtune score``: scores rows that were not ranked, with the ranker that a run has saved."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.core.config import DatasetConfig
from sealtune.core.console import track
from sealtune.core.errors import UserError
from sealtune.core.types import Drop, Sample, Scores
from sealtune.data.load import load
from sealtune.pipeline.stages import rank

if TYPE_CHECKING:
    from sealtune.pipeline.inputs import TokenizedRows
    from sealtune.pipeline.run import Run

logger = logging.getLogger(__name__)

FOLDER = "score"
RANKED_WITH = ("model", "model_name_or_path", "load_in_4bit", "dtype", "rank", "ranked_by")
"""Inputs of the rank stage that must not change, or new scores would be on another scale."""


def score(run: Run, sources: Sequence[DatasetConfig]) -> dict[str, int]:
    """Write score/rows.jsonl and score/scores.parquet, and log how many rows are scored, unusable and below threshold.

    Returns:
        These counts; ``below_threshold`` only after a selection.

    Raises:
        UserError: the run has not ranked, or ranked with another model or ranker, or its ranker scores no other rows.
    """
    from sealtune.ranking import methods

    methods.require_scores_unseen_rows(run.config.rank.method)
    run.folder.outputs_of("rank")
    _require_same_ranker(run)
    new = run.inputs.for_ranking().tokenize(load(sources))
    scores = _score(run, new)
    selected = run.folder.manifest().stages.get("select")
    threshold = selected.threshold if selected else None
    run.folder.write_scores(scores, new.rows.positions(scores.ids), f"{FOLDER}/scores.parquet")
    run.folder.write_jsonl(f"{FOLDER}/rows.jsonl", _scored_rows(run, new, scores, threshold))
    counts = {"scored": len(scores), "unusable": len(new.drops)}
    text = f"{len(scores):,} rows scored, {len(new.drops):,} unusable"
    if threshold is not None:
        counts["below_threshold"] = int((scores.score < threshold).sum())
        text += f", {counts['below_threshold']:,} below the selection's threshold"
    logger.info("score: %s", text)
    return counts


def _require_same_ranker(run: Run) -> None:
    ranked, now = run.folder.manifest().stages["rank"].inputs, rank.depends_on(run)
    changed = [key for key in RANKED_WITH if ranked.get(key) != now[key]]
    if changed:
        raise UserError(f"score: {', '.join(changed)} changed since {run.folder.root} was ranked; rank again")


def _score(run: Run, new: TokenizedRows) -> Scores:
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    config = run.inputs.for_ranking().config
    with track("score") as advance:
        job = Job(
            new.encoded,
            new.encoded.take([]),
            config,
            lambda full: run.load_model(config, full=full),
            lambda record, total, state: advance(record.step, total, record.rows, record.tokens),
        )
        return methods.score(job, run.folder.read_selector())


def _scored_rows(run: Run, new: TokenizedRows, scores: Scores, threshold: float | None) -> Iterator[dict[str, Any]]:
    """The rows in their own schema and in input order; what sealtune adds is under the key ``sealtune``."""
    ranked = np.sort(run.folder.read_scores().score)

    def scored(sample: Sample, value: float) -> dict[str, Any]:
        above = float(np.searchsorted(ranked, value) / len(ranked))
        verdict = None if threshold is None else "keep" if value >= threshold else "drop"
        return {"id": sample.id, "score": value, "above_share_of_ranked_rows": above, "verdict": verdict}

    def unusable(drop: Drop) -> dict[str, Any]:
        return {"id": drop.id, "score": None, "verdict": None, "reason": f"{drop.reason}: {drop.detail}"}

    samples = new.rows.samples.take(new.rows.samples.ids.index_in(scores.ids))  # in input order, as the scores
    rows = heapq.merge(
        ((s.position, s.row, scored(s, value)) for s, value in zip(samples, scores.score.tolist(), strict=True)),
        ((drop.position, drop.row, unusable(drop)) for drop in new.drops),
        key=itemgetter(0),
    )
    return ({**row, "sealtune": about} for _, row, about in rows)
