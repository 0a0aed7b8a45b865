"""Scores every candidate."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core import distributed
from sealtune.core.console import track
from sealtune.core.types import Decision, Scores
from sealtune.data.duplicates import count_shared
from sealtune.data.encoded import Encoded
from sealtune.data.reasons import describe, plural
from sealtune.data.turn_rows import TurnRows, split_turns
from sealtune.pipeline import decisions, turns
from sealtune.pipeline.fingerprints import path_fingerprint
from sealtune.pipeline.stages.outcome import Outcome, drop_records

if TYPE_CHECKING:
    from sealtune.pipeline.folder import RunFolder
    from sealtune.pipeline.inputs import TokenizedRows
    from sealtune.pipeline.run import Run

logger = logging.getLogger(__name__)

_NAMES = ("scores.parquet", "selector.safetensors", "selector_config.json", "drops.jsonl", "log.jsonl")
FILES = tuple(f"rank/{name}" for name in _NAMES)
NEIGHBOURS = "rank/neighbours.jsonl"
"""The nearest rows of each row, with rankers that find them."""


def depends_on(run: Run) -> dict[str, Any]:
    """The rows, the safe set, the models, the ranker, and the decisions that it learns from.

    Not ``label_column``: no ranker sees the labels.
    """
    imported = run.config.rank.scores
    return {
        **({} if imported is None else {"scores": path_fingerprint(imported)}),
        **({} if run.config.select.granularity == "row" else {"granularity": "turn"}),
        **run.settings("seed"),
        **run.model_settings(),
        **run.inputs.fingerprints(),
        **run.row_dependencies(),
        "rank": run.config.rank.model_dump(mode="json", exclude={"save_steps", "report_to", "decisions", "scores"}),
        **decisions.fingerprint(run.config.rank.decisions),
    }


def work(run: Run, dependencies: Mapping[str, Any]) -> Outcome:
    """Score every candidate."""
    from sealtune.ranking import methods
    from sealtune.ranking.turns import decisions_of_turns

    settings = run.config.rank
    needs_safe_set = methods.load_ranker(settings.method).needs_safe_set
    with distributed.main_process_first():  # the other processes read its token cache
        candidates, rows = run.inputs.load_ranking_candidates(), run.inputs.load_candidates()
        safe = run.inputs.for_ranking().load_safe() if needs_safe_set else None
    _log_size("candidates", candidates, rows)
    if safe is not None:
        _log_size("safe set", safe.encoded, safe)
        if shared := count_shared(rows.rows.samples, safe.rows.samples):
            logger.warning("rank: %s of the safe set: their ranking says nothing", plural(shared, "candidate"))
    made = decisions.load_decisions(settings.decisions, rows)
    unusable = [drop.id for drop in rows.drops]
    split = split_turns(candidates) if run.config.select.granularity == "turn" else None
    ranked = candidates if split is None else split.encoded
    if split is not None:
        made = decisions_of_turns(made, split)
        logger.info("rank: %s answers of %s rows", f"{len(ranked):,}", f"{len(candidates):,}")
    scores, log = _rank(run, dependencies, ranked, safe.encoded if safe else candidates.take([]), made, unusable)
    if not distributed.is_main_process():
        return Outcome([], {})
    if scores.non_finite:
        first = ", ".join(scores.non_finite[:5])
        logger.warning(
            "rank: the loss of %d rows is not finite; they are ranked last: %s", len(scores.non_finite), first
        )
    run.folder.write_jsonl("rank/drops.jsonl", drop_records(candidates=rows.drops, safe=safe.drops if safe else ()))
    run.folder.write_jsonl("rank/log.jsonl", log)
    scores, more = _write_details(run.folder, scores, split)
    run.folder.write_scores(scores, rows.rows.positions(scores.ids))
    run.folder.write_selector(scores, settings.method, settings.weighting)
    tokens = sum(record["tokens"] for record in log)
    facts = {"rows": len(scores), "tokens": tokens, "not_finite": list(scores.non_finite)}
    return Outcome([*FILES, *more], facts)


def _write_details(folder: RunFolder, scores: Scores, split: TurnRows | None) -> tuple[Scores, list[str]]:
    """The scores of the rows, and the files that say more about some rankings: single answers, or nearest rows."""
    from sealtune.ranking.turns import best_turns

    if split is not None:
        turns.write_scores(folder, split, scores)
        return best_turns(scores, split), [turns.SCORES]
    if scores.neighbours:
        folder.write_jsonl(NEIGHBOURS, (found._asdict() for found in scores.neighbours.values()))
        return scores, [NEIGHBOURS]
    return scores, []


def _rank(
    run: Run,
    dependencies: Mapping[str, Any],
    candidates: Encoded,
    safe: Encoded,
    made: Mapping[str, Decision],
    unusable: Collection[str],
) -> tuple[Scores, list[Any]]:
    """The scores and the step log. Resumes from a checkpoint if the config says so."""
    from sealtune.pipeline.step_log import StepLog
    from sealtune.pipeline.trackers import tracking
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    config = run.inputs.for_ranking().config
    followed = tracking(run.config.rank.report_to, run.folder.path("rank"), run.settings("model_name_or_path", "rank"))
    with track("rank") as advance, followed as trackers:
        log = StepLog(run.folder, dependencies, run.config.rank.save_steps, advance, trackers)
        resume = log.resume(run.config.resume_from_checkpoint)
        with log.stop_on_signals():
            job = Job(
                candidates,
                safe,
                config,
                lambda full: run.load_model(config, full=full),
                log.on_step,
                resume.state if resume else None,
                made,
                unusable,
            )
            scores = methods.rank(job)
    run.stop_requested = distributed.all_reduce_max(log.stop_requested or 0) or None
    return scores, log.records


def _log_size(name: str, encoded: Encoded, rows: TokenizedRows) -> None:
    unusable = f", {describe(rows.drops)}" if rows.drops else ""
    logger.info("%s: %s rows, %s tokens%s", name, f"{len(encoded):,}", f"{int(encoded.lengths.sum()):,}", unusable)
