"""Every candidate gets a score."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core import distributed
from sealtune.core.console import say, track
from sealtune.core.types import Drop, Scores
from sealtune.data.encoded import Encoded
from sealtune.models.load import fingerprint
from sealtune.pipeline.stages.outcome import Outcome, drop_records

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run


def inputs(run: Run) -> dict[str, Any]:
    """``label_column`` is not among them: no ranker sees it."""
    settings = run.config.rank.model_dump(mode="json", exclude={"save_steps"})
    chosen = run.settings("seed", "max_length", "overlong_rows") | run.model_settings()
    ranked_by = {"ranked_by": fingerprint(run.config.ranking)}
    return chosen | run.material.fingerprints | ranked_by | {"rank": settings}


def work(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Score every candidate."""
    from sealtune.ranking import methods

    settings = run.config.rank
    methods.load_ranker(settings.method)
    with distributed.main_process_first():  # it leaves the tokens to the others
        candidates, drops = run.material.ranked, run.material.candidates[1]
        safe, safe_drops = run.material.for_ranking.safe
    say(f"candidates: {_count(candidates, drops)}")
    say(f"safe set: {_count(safe, safe_drops)}")
    scores, log = _rank(run, inputs, candidates, safe)
    if not distributed.is_main_process():
        return Outcome([], {})
    if scores.non_finite:
        say(
            f"rank: the loss of {len(scores.non_finite)} rows is not finite; ranked last: {', '.join(scores.non_finite[:5])}"
        )
    run.folder.write_scores(scores, run.material.rows.positions(scores.ids))
    run.folder.write_selector(scores, settings.method, settings.weighting)
    run.folder.write_jsonl("rank/drops.jsonl", drop_records(candidates=drops, safe=safe_drops))
    run.folder.write_jsonl("rank/log.jsonl", log)
    names = ("scores.parquet", "selector.safetensors", "selector_config.json", "drops.jsonl", "log.jsonl")
    tokens = sum(record["tokens"] for record in log)
    facts = {"rows": len(scores), "tokens": tokens, "not_finite": list(scores.non_finite)}
    return Outcome([f"rank/{name}" for name in names], facts)


def _rank(run: Run, inputs: Mapping[str, Any], candidates: Encoded, safe: Encoded) -> tuple[Scores, list[Any]]:
    """The scores and the log of the steps; goes on from a checkpoint where the config asks for it."""
    from sealtune.pipeline.step_log import StepLog
    from sealtune.ranking import methods
    from sealtune.ranking.job import Job

    material = run.material.for_ranking
    with track("rank") as advance:
        recorder = StepLog(run.folder, inputs, run.config.rank.save_steps, advance)
        resume = recorder.resume(run.config.resume_from_checkpoint)
        with recorder.stopping():
            job = Job(
                candidates,
                safe,
                material.config,
                lambda full: run.load_model(material.config, full=full),
                recorder.on_step,
                resume.state if resume else None,
            )
            scores = methods.rank(job)
    run.stop_requested = distributed.all_reduce_max(recorder.stop_requested or 0) or None
    return scores, recorder.records


def _count(encoded: Encoded, drops: Collection[Drop]) -> str:
    unusable = f", {len(drops):,} unusable" if drops else ""
    return f"{len(encoded):,} rows, {int(encoded.lengths.sum()):,} tokens{unusable}"
