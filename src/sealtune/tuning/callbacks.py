"""Callbacks of the trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from sealtune.core.errors import RunError
from sealtune.tuning.sft_config import effective_batch_size

if TYPE_CHECKING:
    from sealtune.core.checkpoints import Checkpointer
    from sealtune.core.console import Advance
    from sealtune.tuning.dataset import RecordingCollator


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Reports progress, and stops if a loss is not finite."""

    def __init__(self, advance: Advance, collator: RecordingCollator) -> None:
        self.advance = advance
        self.collator = collator
        self.step = self.tokens = 0
        """Progress as last reported."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start from the counters of the checkpoint when resuming."""
        self.step, self.tokens = state.global_step, int(state.num_input_tokens_seen)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Report the steps since the last log line. Raises RunError if their loss is not finite."""
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise RunError(
                f"tuning stopped at step {state.global_step}: the loss is {loss}; the cause is among rows "
                f"{', '.join(self.collator.recent_ids())}; lower tune.learning_rate or inspect these rows"
            )
        tokens = int(state.num_input_tokens_seen)
        rows = (state.global_step - self.step) * effective_batch_size(args)
        self.advance(state.global_step, state.max_steps, rows, tokens - self.tokens, _note(logs))
        self.step, self.tokens = state.global_step, tokens


def _note(logs: Mapping[str, float]) -> str:
    """The loss of the task, and the guard's figures if there are any."""
    shown = {
        "loss": "loss",
        "refuse": "guard_refuse",
        "help": "guard_help",
        "lambda": "lambda_refuse",
        "J": "J",
    }
    return ", ".join(f"{title} {logs[name]:.3f}" for title, name in shown.items() if name in logs)


class SaveCallback(TrainerCallback):  # type: ignore[misc]
    """Lets the checkpointer decide when the trainer saves."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask the checkpointer after every step."""
        control.should_save = self.checkpointer.should_save(state.global_step, state.max_steps)
