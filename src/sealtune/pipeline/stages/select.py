"""The rows are split into kept and dropped by their scores."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Collection, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.core.console import say
from sealtune.core.types import Drop, Selection
from sealtune.pipeline.inputs import data_fingerprint
from sealtune.pipeline.stages.outcome import Outcome

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run


def inputs(run: Run) -> dict[str, Any]:
    """The scores, the rows and how many to keep."""
    mix = [data_fingerprint(c) for c in run.config.select.mix_datasets]
    fingerprints = {"datasets": run.material.fingerprints["datasets"], "mix_datasets": mix}
    return run.settings("select") | fingerprints | {"scores": run.folder.outputs_of("rank")["rank/scores.parquet"]}


def work(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Split the rows into kept and dropped, each in its own schema and in input order."""
    from sealtune.ranking.selection import require_same_ids
    from sealtune.ranking.selection import select as choose

    encoded, drops = run.material.candidates
    scores = run.folder.read_scores()
    require_same_ids(scores, encoded.ids, str(run.folder.path("rank/scores.parquet")))
    selection = choose(scores, run.config.select)
    samples = run.material.rows.samples
    kept = samples.take(np.flatnonzero(samples.ids.isin(selection.kept)))
    run.folder.write_jsonl("select/kept.jsonl", (sample.row for sample in kept))
    run.folder.write_jsonl("select/dropped.jsonl", _dropped_rows(run, selection, drops))
    run.folder.write_texts("select/kept_ids.json", selection.kept)
    run.folder.write_jsonl("select/mixed.jsonl", (s.row for s in run.material.mixed.samples))
    mixed = len(run.material.mixed.samples)
    say(
        f"select: {len(kept):,} rows kept, {len(selection.rejected):,} dropped by rank, {len(drops):,} unusable, "
        f"{mixed:,} mixed in"
    )
    if found := selection.contamination:
        chance = "" if found.significant else ", which may be chance"
        say(f"select: estimated share of unsafe rows {found.share:.1%} ({found.low:.0%} to {found.high:.0%}){chance}")
    names = ("kept.jsonl", "dropped.jsonl", "kept_ids.json", "mixed.jsonl")
    return Outcome([f"select/{name}" for name in names], {"rows": len(kept), "threshold": selection.threshold})


def _dropped_rows(run: Run, selection: Selection, drops: Collection[Drop]) -> Iterator[dict[str, Any]]:
    """Rows rejected by rank and rows that could not be used, in input order; our words under one key."""
    samples, rejected = run.material.rows.samples, selection.rejected
    places = samples.ids.index_in(row.id for row in rejected)
    order = np.argsort(places)
    ranked = zip(samples.take(places[order]), (dataclasses.asdict(rejected[i]) for i in order), strict=True)
    rows = heapq.merge(
        ((sample.position, sample.row, about) for sample, about in ranked),
        ((drop.position, drop.row, _about(drop)) for drop in drops),
        key=itemgetter(0),
    )
    return ({**row, "sealtune": about} for _, row, about in rows)


def _about(drop: Drop) -> dict[str, Any]:
    return {"id": drop.id, "rank": None, "score": None, "reason": f"{drop.reason}: {drop.detail}"}
