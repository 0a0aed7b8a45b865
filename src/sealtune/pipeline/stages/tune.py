"""Fine-tunes the model on the rows kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.core import distributed
from sealtune.core.console import track
from sealtune.core.errors import UserError
from sealtune.core.string_array import FloatArray, StringArray
from sealtune.data.encoded import Encoded
from sealtune.data.turn_rows import mask_turns
from sealtune.models import sharding
from sealtune.pipeline import turns
from sealtune.pipeline.fingerprints import data_fingerprint
from sealtune.pipeline.guard_set import guard_rows
from sealtune.pipeline.stages.outcome import Outcome

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run
    from sealtune.tuning.train import TuningResult


def depends_on(run: Run) -> dict[str, Any]:
    """The rows kept, the model and the trainer's settings."""
    return {
        **run.settings("seed", "max_length", "overlong_rows", "template_markers"),
        "tune": run.config.tune.model_dump(mode="json", exclude={"save_steps", "report_to"}),
        **run.model_settings(),
        **run.inputs.fingerprints(),
        "mix_datasets": [data_fingerprint(c) for c in run.config.select.mix_datasets],
        "rows": run.folder.outputs_of("select"),
    }


def work(run: Run, dependencies: Mapping[str, Any]) -> Outcome:
    """Fine-tune on the rows kept."""
    from sealtune.core.checkpoints import Checkpointer
    from sealtune.tuning.train import train

    run.require_same_rows("tune")
    rows = _training_rows(run)
    safe = guard_rows(run.inputs) if run.config.tune.guard != "off" else None
    weights = row_weights(run, rows.ids) if run.config.tune.use_weights else None
    settings, tokenizer = run.config.tune, run.inputs.load_tokenizer()
    checkpointer = Checkpointer("tune", run.folder, dependencies, settings.save_steps)
    resume = checkpointer.resume(run.config.resume_from_checkpoint)
    model = run.load_model(full=not settings.use_peft, all_processes=sharding.uses_zero3())
    with track("tune") as advance, checkpointer.stop_on_signals():
        result = train(
            model,
            tokenizer,
            rows,
            run.config,
            advance,
            checkpointer=checkpointer,
            resume=resume,
            safe=safe,
            weights=weights,
        )
    run.stop_requested = distributed.all_reduce_max(checkpointer.stop_requested or 0) or None
    if not distributed.is_main_process():  # it alone holds the gathered weights
        return Outcome([], {})
    return _save(run, result, len(rows))


def _save(run: Run, result: TuningResult, rows: int) -> Outcome:
    from sealtune.tuning.model_card import model_card
    from sealtune.tuning.saved_model import save

    with run.folder.atomic_folder("tune") as scratch:
        save(result.model, run.inputs.load_tokenizer(), run.config, scratch)
        config = run.config.model_copy(update={"max_length": run.inputs.max_length()})
        card = model_card(config, run.folder.manifest().as_dict(), rows, result)
        (scratch / "README.md").write_text(card, encoding="utf-8")
    run.folder.write_jsonl("tune/log.jsonl", result.log)
    run.folder.write_jsonl("tune/guard.jsonl", result.guard)
    files = sorted(p for p in run.folder.path("tune").rglob("*") if p.is_file())
    tokens = int(result.log[-1].get("num_input_tokens_seen", 0)) if result.log else 0
    facts: dict[str, Any] = {"rows": rows, "tokens": tokens}
    if result.guard:
        facts["kept_step"] = result.kept_step or result.steps
    return Outcome([str(p.relative_to(run.folder.root)) for p in files], facts)


def _training_rows(run: Run) -> Encoded:
    """The rows kept, with the tokens that were ranked, and the rows of ``mix_datasets``."""
    kept = run.inputs.load_candidates().encoded.isin(run.folder.kept_ids())
    kept = mask_turns(kept, turns.read_masked(run.folder))
    if not run.config.select.mix_datasets:
        return kept
    return kept.extend(run.inputs.tokenize(run.inputs.load_mix_rows()).encoded)


def row_weights(run: Run, ids: Sequence[str]) -> FloatArray:
    """The weights (N,) of these training rows, with mean 1; a row of ``mix_datasets`` counts as an average one.

    Raises:
        UserError: The ranker gives all rows the same weight.
    """
    scores = run.folder.read_scores()
    if np.ptp(scores.weight) == 0:
        raise UserError(f"tune.use_weights: {run.config.rank.method} gives no weights; use rank.method=seal, or false")
    found = np.append(scores.weight, np.nan)[StringArray.of(scores.ids).index_in(ids)]
    weights: FloatArray = np.nan_to_num(found / np.nanmean(found), nan=1.0)
    return weights
