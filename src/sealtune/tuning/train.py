"""The final fine-tuning: TRL's SFTTrainer on the same token ids and loss mask as in ranking."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sealtune.core.config import Config
from sealtune.core.errors import RunError, UserError
from sealtune.data.encoded import Encoded
from sealtune.models.quantised import require_trainable
from sealtune.models.state_dict import restoring
from sealtune.tuning.dataset import RecordingCollator, to_dataset
from sealtune.tuning.guard import GuardSettings
from sealtune.tuning.regimes import choose_regime, require_guardable
from sealtune.tuning.sft_config import (
    effective_batch_size,
    guard_batch_size,
    keep_batch_size,
    sft_config,
    total_steps,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTTrainer

    from sealtune.core.checkpoints import Checkpoint, Checkpointer
    from sealtune.core.console import Advance
    from sealtune.core.string_array import FloatArray
    from sealtune.tuning.guard_rows import GuardRows


class TuningResult(NamedTuple):
    """A tuned model and how it was trained.

    Attributes:
        model: A PeftModel with ``use_peft``, otherwise a full model.
        log: The trainer's log, one record per ``logging_steps`` steps.
        steps: Optimizer steps taken.
        epochs: Epochs completed; a fraction if ``max_steps`` ended the last one.
        batch_size: Rows per step, in all processes together.
        guard: What the guard measured on the safe rows that it watches, from the start model on; empty without a guard.
        kept_step: The step whose weights the model has, if it is not the last one.
    """

    model: PreTrainedModel
    log: list[dict[str, Any]]
    steps: int
    epochs: float
    batch_size: int
    guard: Sequence[dict[str, float]] = ()
    kept_step: int | None = None


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Encoded,
    config: Config,
    advance: Advance,
    trainer_class: type[SFTTrainer] | None = None,
    *,
    checkpointer: Checkpointer | None = None,
    resume: Checkpoint | None = None,
    safe: GuardRows | None = None,
    weights: FloatArray | None = None,
) -> TuningResult:
    """Fine-tune ``model``, in place, on tokenized rows.

    Args:
        trainer_class: Another trainer, for comparisons.
        checkpointer: Saves checkpoints, and stops the training after a signal.
        resume: The checkpoint to resume from.
        safe: The safe set, for the guard; None to tune without it, whatever ``tune.guard`` is.
        weights: Weights (N,) of the rows in the loss, with mean 1; None for equal ones.

    Raises:
        UserError: The trainer or peft refuses a setting, the checkpoint does not fit, or the weights are quantised and
            would be trained.
        StoppedError: A signal stopped the training.
        RunError: The loss or a weight became NaN or infinite.
    """
    if not config.tune.use_peft:
        require_trainable(model, "tune.use_peft")
    config = _with_batch_size_of(resume, config) if resume else config
    guarded = safe is not None and config.tune.guard != "off"
    if guarded:
        require_guardable(config)
    regime = choose_regime(config)
    model = regime.prepare(model)
    with tempfile.TemporaryDirectory() as scratch, regime.training():  # the trainer needs a folder; nothing is kept
        trainer = _make_trainer(
            trainer_class,
            rows,
            advance,
            data_collator=RecordingCollator(tokenizer, rows, config.tune, weights),
            model=model,
            args=sft_config(config, scratch, len(rows)),
            processing_class=tokenizer,
            peft_config=regime.peft_config(model),
        )
        if guarded:
            trainer.add_guard(safe, guard_settings(config), total_steps(config.tune, len(rows)))
        if checkpointer is None:
            trainer.train()
        else:
            trainer.train_with_checkpoints(checkpointer, resume)
        kept_step = trainer.restore_best() if guarded else None
    return _result(trainer, regime.gather(trainer), trainer.guard.history if guarded else (), kept_step)


def guard_settings(config: Config) -> GuardSettings:
    """How the guard works, which must not be off."""
    tune = config.tune
    assert tune.guard != "off"
    return GuardSettings(tune.guard, tune.guard_weight, guard_batch_size(tune), tune.guard_tolerance, config.seed)


def _with_batch_size_of(checkpoint: Checkpoint, config: Config) -> Config:
    with restoring():
        batch_size = int(checkpoint.rest["batch_size"])
    return keep_batch_size(config, batch_size)


def _make_trainer(
    trainer_class: type[SFTTrainer] | None,
    rows: Encoded,
    advance: Advance,
    data_collator: RecordingCollator,
    **arguments: Any,
) -> Any:
    """The trainer; ``arguments`` are passed to its constructor. Raises UserError if it refuses a setting."""
    from transformers import PrinterCallback

    from sealtune.tuning.callbacks import ProgressCallback
    from sealtune.tuning.guarded_trainer import GuardedTrainer

    arguments |= {"train_dataset": to_dataset(rows), "data_collator": data_collator}
    callbacks = [ProgressCallback(advance, data_collator)]
    try:
        trainer = (trainer_class or GuardedTrainer)(callbacks=callbacks, **arguments)
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"tune: {' '.join(str(error).split())}") from None
    trainer.remove_callback(PrinterCallback)
    trainer.rows = rows
    return trainer


def _result(
    trainer: SFTTrainer, model: PreTrainedModel, guard: Sequence[dict[str, float]], kept_step: int | None
) -> TuningResult:
    """What the trainer did. Raises RunError if a trained weight is not finite."""
    if not all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad):
        raise RunError("tuning ended with weights that are not finite; lower tune.learning_rate")
    state = trainer.state
    log = [record for record in state.log_history if "loss" in record]
    batch_size = effective_batch_size(trainer.args)
    return TuningResult(model, log, state.global_step, state.epoch or 0.0, batch_size, guard, kept_step)
