"""The trainer with a guard: the safe rows of each step add to the loss, and the best step is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import SFTTrainer

from sealtune.core import distributed
from sealtune.models.continuations import evaluating
from sealtune.models.state_dict import State, check_shapes, restoring
from sealtune.tuning.guard import Guard, GuardSettings, means_of_halves
from sealtune.tuning.guard_rows import GuardRows
from sealtune.tuning.predictor import Predictor
from sealtune.tuning.trainer import ResponseTrainer, trainable_parameters

logger = logging.getLogger(__name__)


class Guarded(SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer, or a subclass of it, that keeps a safe set in force if ``add_guard`` is called.

    Attributes:
        guard: The guard; None to tune on the task alone.
        best: The trained weights of the step that the guard prefers, on the CPU.
    """

    guard: Guard | None = None
    best: State

    def add_guard(self, rows: GuardRows, settings: GuardSettings, steps: int) -> None:
        """Guard a training of this many steps. The model must still be the start model."""
        part = (distributed.process_index(), distributed.num_processes())
        self.model.train()  # as for training: evaluation mode, set by the loader, would pack 4-bit weights on a CPU
        with self._measuring():
            # Not the model as wrapped for several processes: the hooks that synchronise gradients are on its weights.
            predictor = Predictor(self.model, self.processing_class, rows.openings)
            self.guard = Guard(rows, settings, steps, predictor.predict, predictor.refusal, part)
        self.best = {}
        self._guarded_step = -1
        self._guard_loss: Tensor | float = 0.0
        self._sums = torch.zeros(2, 2)  # of the distances since the last log line
        self.add_callback(WatchCallback(self))

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """The model as it is measured: without dropout and gradients, in the precision of the training."""
        with evaluating(self.model), self.accelerator.autocast():
            yield

    # -- the loss ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of the task and, once per step, of the safe rows; a scalar in nats."""
        task = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._guard_loss = 0.0
        if self.guard is None or return_outputs or self._guarded_step == self.state.global_step:
            return task
        self._guarded_step = self.state.global_step
        with self.accelerator.autocast():
            added, sums = self.guard.loss(self.state.global_step)
        self._sums = self._sums.to(sums) + sums
        self._guard_loss = added.detach()
        return task + added * self._divisor(num_items_in_batch)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As the trainer's; returns the loss of the task alone, for the log."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss - self._guard_loss

    def _divisor(self, num_items_in_batch: Any) -> int:
        """What the trainer divides the loss by: the accumulation steps, unless it counts the tokens of all of them."""
        counted = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return 1 if counted else int(self.current_gradient_accumulation_steps)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the guard's figures beside the loss: like it, means since the last log line, over all processes."""
        if self.guard is not None and "loss" in logs:
            distances, latest = means_of_halves(distributed.all_reduce_sum(self._sums)), self.guard.history[-1]
            self._sums = torch.zeros(2, 2)
            logs |= {f"guard_{name}": value for name, value in distances.items()}
            logs |= {f"lambda_{name}": value for name, value in self.guard.multipliers.items() if name in latest}
            logs["J"] = latest["J"]
        super().log(logs, start_time)

    # -- the best step -----------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Measure the watched rows if it is time, and remember the weights if they are the best so far."""
        assert self.guard is not None
        step = self.state.global_step
        if not (self.guard.is_due(step) or step == self.state.max_steps):
            return
        with self._measuring():
            preferred = self.guard.watch(step)
        if preferred:
            self._remember()

    @torch.no_grad()
    def _remember(self) -> None:
        """Copy the trained weights to the CPU, over those of an earlier step."""
        for name, parameter in trainable_parameters(self.model):
            if name not in self.best:
                self.best[name] = torch.empty_like(parameter, device="cpu")
            self.best[name].copy_(parameter)

    @torch.no_grad()
    def restore_best(self) -> int | None:
        """Put the weights of the best step back; None if it is the last one, otherwise its number."""
        if self.guard is None or self.guard.best is None:
            return None
        step = int(self.guard.best["step"])
        if step == self.state.global_step:
            return None
        for name, parameter in trainable_parameters(self.model):
            parameter.copy_(self.best[name])
        records = (self.guard.history[0], self.guard.best, self.guard.history[-1])
        start, best, last = (record["J"] for record in records)
        logger.warning(
            "guard: step %d of %d is kept: on safe rows that are not learned from, J, the probability of refusing "
            "harmful prompts minus harmless ones, is %.3f there and %.3f at the end (the start model: %.3f)",
            step, self.state.global_step, best, last, start,
        )  # fmt: skip
        return step


class WatchCallback(TrainerCallback):  # type: ignore[misc]
    """Lets the guard look at the model after every step."""

    def __init__(self, trainer: Guarded) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Watch, before a checkpoint is saved."""
        self.trainer.watch()


class RestoreCallback(TrainerCallback):  # type: ignore[misc]
    """Puts the weights of the best step back when a training ends."""

    def __init__(self, trainer: Guarded) -> None:
        self.trainer = trainer

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The training has ended; what is saved now are these weights."""
        self.trainer.restore_best()


def guard_trainer(trainer: Any, rows: GuardRows, settings: GuardSettings, steps: int) -> None:
    """Guard a trainer that was made elsewhere, and keep the best step when its training ends.

    The trainer stays the object that it is, and its class becomes one with a guard in front of its own, as torch's
    ``fully_shard`` does with modules.

    Args:
        trainer: An SFTTrainer whose model is still the start model.
        rows: The safe set.
        settings: How the guard works.
        steps: Steps of the training.
    """
    own = type(trainer)
    trainer.__class__ = Guarded if own is SFTTrainer else type(f"Guarded{own.__name__}", (Guarded, own), {})
    trainer.add_guard(rows, settings, steps)
    trainer.add_callback(RestoreCallback(trainer))


class GuardedTrainer(Guarded, ResponseTrainer):
    """ResponseTrainer with a guard, which is part of its checkpoints."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.best = {}

    def _tensors(self, moments: Any) -> State:
        return super()._tensors(moments) | {f"best.{name}": value for name, value in self.best.items()}

    def _values(self, param_groups: list[dict[str, Any]]) -> dict[str, Any]:
        values = super()._values(param_groups)
        return values if self.guard is None else values | {"guard": self.guard.state_dict()}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.guard is None or self.checkpoint is None:
            return
        with restoring():
            self.guard.load_state_dict(self.checkpoint.rest["guard"])
            self.best = {name: value.clone() for name, value in self._saved("best").items()}
            if self.best:
                check_shapes(self.best, dict(trainable_parameters(self.model)))
