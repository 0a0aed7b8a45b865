"""The model is fine-tuned on the rows kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core import distributed
from sealtune.core.console import track
from sealtune.data.encoded import Encoded
from sealtune.models import sharding
from sealtune.pipeline.inputs import data_fingerprint
from sealtune.pipeline.stages.outcome import Outcome

if TYPE_CHECKING:
    from sealtune.pipeline.run import Run


def inputs(run: Run) -> dict[str, Any]:
    """The rows kept, the model and the settings of the trainer."""
    tuning = {"tune": run.config.tune.model_dump(mode="json", exclude={"save_steps"})}
    settings = run.settings("seed", "max_length", "overlong_rows") | tuning | run.model_settings()
    mix = {"mix_datasets": [data_fingerprint(c) for c in run.config.select.mix_datasets]}
    return settings | run.material.fingerprints | mix | {"rows": run.folder.outputs_of("select")}


def work(run: Run, inputs: Mapping[str, Any]) -> Outcome:
    """Fine-tune on the rows kept."""
    from sealtune.core.checkpoints import Checkpointer
    from sealtune.tuning.model_card import model_card
    from sealtune.tuning.saved_model import save
    from sealtune.tuning.train import train

    run.require_same_rows("tune")
    rows = _training_rows(run)
    settings = run.config.tune
    checkpointer = Checkpointer("tune", run.folder, inputs, settings.save_steps)
    resume = checkpointer.resume(run.config.resume_from_checkpoint)
    model = run.load_model(full=not settings.use_peft, everywhere=sharding.uses_zero3())
    with track("tune") as advance, checkpointer.stopping():
        tuned, log = train(
            model, run.material.tokenizer, rows, run.config, advance, checkpointer=checkpointer, resume=resume
        )
    run.stop_requested = distributed.all_reduce_max(checkpointer.stop_requested or 0) or None
    if not distributed.is_main_process():  # the weights are whole in the first
        return Outcome([], {})
    with run.folder.whole_folder("tune") as scratch:
        save(tuned, run.material.tokenizer, run.config, scratch)
        (scratch / "README.md").write_text(model_card(run.config, run.folder.manifest(), len(rows)), encoding="utf-8")
    run.folder.write_jsonl("tune/log.jsonl", log)
    files = sorted(p for p in run.folder.path("tune").rglob("*") if p.is_file())
    tokens = int(log[-1].get("num_input_tokens_seen", 0)) if log else 0
    return Outcome([str(p.relative_to(run.folder.root)) for p in files], {"rows": len(rows), "tokens": tokens})


def _training_rows(run: Run) -> Encoded:
    """The rows kept, and those mixed in, as the very tokens that ranking saw."""
    encoded, _ = run.material.candidates
    kept = run.folder.kept_ids()
    rows = encoded.isin(kept)
    if not run.config.select.mix_datasets:
        return rows
    mixed, _ = run.material.encode(run.material.mixed)
    return rows.extend(mixed)
