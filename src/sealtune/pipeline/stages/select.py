"""Splits the candidates into kept and dropped rows by their scores."""

from __future__ import annotations

import dataclasses
import heapq
import logging
from collections.abc import Collection, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.core.types import Decision, Drop, Sample, Selection
from sealtune.data.row_store import Samples
from sealtune.pipeline import decisions, turns
from sealtune.pipeline.fingerprints import data_fingerprint
from sealtune.pipeline.stages.outcome import Outcome

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run

logger = logging.getLogger(__name__)

_NAMES = ("kept.jsonl", "dropped.jsonl", "kept_ids.json", "mixed.jsonl", "decisions.jsonl")
FILES = tuple(f"select/{name}" for name in _NAMES)


def depends_on(run: Run) -> dict[str, Any]:
    """The scores, the rows, how many to keep, and what people decided."""
    settings = run.config.select
    return {
        "select": settings.model_dump(mode="json", exclude={"decisions"}),
        **decisions.fingerprint(settings.decisions),
        "datasets": run.inputs.fingerprints()["datasets"],
        "mix_datasets": [data_fingerprint(c) for c in run.config.select.mix_datasets],
        "scores": run.folder.outputs_of("rank")["rank/scores.parquet"],
    }


def work(run: Run, dependencies: Mapping[str, Any]) -> Outcome:
    """Split the rows into kept and dropped, in their own schema and in input order."""
    from sealtune.ranking.selection import require_same_ids
    from sealtune.ranking.selection import select as select_rows
    from sealtune.ranking.turns import select_turns

    candidates = run.inputs.load_candidates()
    scores = run.folder.read_scores()
    require_same_ids(scores, candidates.encoded.ids, str(run.folder.path("rank/scores.parquet")))
    made = decisions.load_decisions(run.config.select.decisions, candidates)
    by_turn = turns.read_scores(run.folder) if run.config.select.granularity == "turn" else None
    masked: dict[str, list[int]] = {}
    if by_turn is None:
        selection = select_rows(scores, run.config.select, made)
    else:
        selection, masked = select_turns(scores, by_turn, run.config.select, made)
    answers = by_turn.answers if masked and by_turn else {}
    samples, added = candidates.rows.samples, run.inputs.load_mix_rows().samples
    kept = samples.take(np.flatnonzero(samples.ids.isin(selection.kept)))
    run.folder.write_jsonl("select/kept.jsonl", (turns.row_with_marks(sample, masked, answers) for sample in kept))
    dropped = _dropped_rows(samples, selection, candidates.drops, made, run.config.rank.origin)
    run.folder.write_jsonl("select/dropped.jsonl", dropped)
    run.folder.write_jsonl(decisions.FILE, decisions.outcomes(scores, selection, made))
    run.folder.write_strings("select/kept_ids.json", selection.kept)
    run.folder.write_jsonl("select/mixed.jsonl", (sample.row for sample in added))
    _log_counts(selection, made, unusable=len(candidates.drops), added=len(added))
    files = [*FILES]
    facts = {"rows": len(kept), "threshold": selection.threshold}
    if by_turn is not None:
        turns.write_masked(run.folder, masked)
        files.append(turns.MASKED)
        facts["masked_turns"] = sum(map(len, masked.values()))
        logger.info("select: %s answers in %s of these rows masked", f"{facts['masked_turns']:,}", f"{len(masked):,}")
    return Outcome(files, facts)


def _log_counts(selection: Selection, made: Mapping[str, Decision], unusable: int, added: int) -> None:
    from sealtune.ranking.selection import decided

    by_hand = [len(decided(made, verb)) for verb in ("keep", "drop")]
    counts = (len(selection.kept), len(selection.rejected) - by_hand[1], unusable, added)
    logger.info(
        "select: %s rows kept, %s dropped by rank, %s unusable, %s added from mix_datasets",
        *(f"{count:,}" for count in counts),
    )
    if made:
        logger.info("select: %s of the rows kept and %s more dropped by decision", *(f"{n:,}" for n in by_hand))
    if found := selection.contamination:
        interval = f"{found.share:.1%} ({found.low:.0%} to {found.high:.0%})"
        note = "" if found.significant else ", not significantly above 0"
        logger.info("select: estimated share of unsafe rows %s%s", interval, note)


def _dropped_rows(
    samples: Samples, selection: Selection, drops: Collection[Drop], made: Mapping[str, Decision], origin: str
) -> Iterator[dict[str, Any]]:
    """Rows dropped by rank or decision, and unusable ones, in input order; sealtune adds what is under ``sealtune``,
    with where the scores come from.
    """
    rejected = selection.rejected
    places = samples.ids.index_in(row.id for row in rejected)
    order = np.argsort(places)

    def dropped(sample: Sample, index: int) -> tuple[int, Mapping[str, Any], dict[str, Any]]:
        about = dataclasses.asdict(rejected[index]) | {"ranked_by": origin}
        by_hand = {"decision": dataclasses.asdict(made[sample.id])} if sample.id in made else {}
        return sample.position, sample.row, about | by_hand

    rows = heapq.merge(
        map(dropped, samples.take(places[order]), order.tolist()),
        ((drop.position, drop.row, _unusable(drop)) for drop in drops),
        key=itemgetter(0),
    )
    return ({**row, "sealtune": about} for _, row, about in rows)


def _unusable(drop: Drop) -> dict[str, Any]:
    return {"id": drop.id, "rank": None, "score": None, "reason": f"{drop.reason}: {drop.detail}"}
