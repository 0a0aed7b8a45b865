"""Repair: an adapter that was tuned elsewhere is made safe again.

First by its scale alone, which takes forward passes only: the largest alpha <= 1 in

    theta(alpha) = theta_0 + alpha (theta* - theta_0)                                            (1)

that satisfies the constraint of the guard (``guard``, eq. 2) and costs little of the task. If there is none, by a few
steps from theta* that minimise

    lambda_refuse S_refuse(theta) + lambda_help S_help(theta) + KL(pi_theta* || pi_theta)        (2)

with the divergence over rows of the task, until the constraint holds on safe rows that are not learned from. The
distance of helping answers is not held at that of the start model but at that of theta*: whoever has learned a task
answers harmless prompts in another way.

Source: for (1) Wortsman et al. (CVPR 2022), arXiv 2109.01903; for (2) the one-shot patch (ICLR 2026, arXiv 2601.01887),
here with many safe rows and a constraint that ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sealtune.core.errors import RunError, UserError
from sealtune.core.string_array import IntArray
from sealtune.data.encoded import Encoded
from sealtune.models.continuations import evaluating
from sealtune.models.losses import row_means
from sealtune.models.predictions import TopLogProbs, divergence, top_log_probs
from sealtune.tuning.guard import Guard, GuardSettings, Record
from sealtune.tuning.guard_rows import GuardRows, response_positions
from sealtune.tuning.predictor import Predictor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCALES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
TASK_COST = 0.03
"""Nats per token of divergence from the tuned model that a repair may cost on the task: more by scale is refused, and
steps go on, as far as there are any, until it is less."""
TASK_ROWS = 32
"""Rows of the task on which the tuned model is kept."""
TASK_TOKENS = 64
"""Response tokens of such a row that are compared."""


class RepairSettings(NamedTuple):
    """How an adapter is repaired.

    Attributes:
        guard: As for a guarded tuning; ``rows`` safe rows are learned in each step.
        steps: Most steps.
        watch_every: Steps between two measurements.
        learning_rate: Of AdamW.
        task_rows: Rows of the task per step.
    """

    guard: GuardSettings = GuardSettings(rows=4)
    steps: int = 48
    watch_every: int = 4
    learning_rate: float = 2e-4
    task_rows: int = 2


class Repaired(NamedTuple):
    """What a repair did to the adapter, in place.

    Attributes:
        start: What the guard measures on the start model, without the adapter.
        tuned: The same with the adapter as it was.
        repaired: The same with the adapter as it is now; with ``task_divergence``, nats per token.
        scale: Factor of the adapter; 1 if it was left.
        steps: Steps taken.
        is_safe: Whether the constraint holds now.
    """

    start: Record
    tuned: Record
    repaired: Record
    scale: float
    steps: int
    is_safe: bool


def repair(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    safe: GuardRows,
    task: Encoded,
    settings: RepairSettings,
    advance: Callable[[int, int, Record], None] = lambda *_: None,
) -> Repaired:
    """Make a LoRA adapter safe again, in place.

    Args:
        model: A PeftModel with one adapter, which is trainable.
        tokenizer: Its tokenizer.
        safe: The safe set.
        task: Rows that the adapter was tuned on, or others like them; they may be none.
        settings: How it is repaired.
        advance: Receives the step, the most steps, and what was measured.

    Raises:
        UserError: The adapter has no weights that can be trained or scaled.
        RunError: A weight became NaN or infinite.
    """
    layers = lora_layers(model)
    model.requires_grad_(False)
    parameters = [p for name, p in model.named_parameters() if ".lora_" in name]
    for parameter in parameters:
        parameter.requires_grad_(True)
    with evaluating(model), torch.enable_grad():  # the model is measured as it will answer, and learns without dropout
        predictor = Predictor(model, tokenizer, safe.openings)
        with model.disable_adapter():
            guard = Guard(safe, settings.guard, settings.steps, predictor.predict, predictor.refusal)
        kept = KeptTask(task.take(np.arange(min(len(task), TASK_ROWS))), predictor, settings.task_rows)
        start, tuned = guard.history[0], guard.measure(0)
        # An adapter that has learned a task answers harmless prompts in another way than the start model; a repair
        # only must not make it worse at the answers of the safe set.
        guard.limits["help"] += max(tuned.get("help", 0.0), 0.0)
        if guard.is_satisfied(tuned):
            return Repaired(start, tuned, tuned, 1.0, 0, is_safe=True)
        scale, scaled = _search_scale(layers, guard, kept)
        if scaled is not None:
            _multiply(layers, scale)
            return Repaired(start, tuned, scaled, scale, 0, is_safe=True)
        steps, repaired = _descend(parameters, guard, kept, settings, advance)
        return Repaired(start, tuned, repaired, 1.0, steps, guard.is_satisfied(repaired))


class KeptTask:
    """Rows of the task, and what the tuned model predicts on them."""

    def __init__(self, rows: Encoded, predictor: Predictor, size: int) -> None:
        self.rows = GuardRows(rows, np.zeros(len(rows), np.bool_))
        self.predictor, self.size = predictor, size
        with torch.no_grad():
            self.top = [self._predict(np.array([i])) for i in range(len(rows))]

    def _predict(self, rows: IntArray) -> TopLogProbs:
        batch = self.rows.pad(rows)
        return top_log_probs(self.predictor.predict(batch.tokens, response_positions(batch.mask, TASK_TOKENS)))

    def loss(self, step: int) -> Tensor | float:
        """The mean divergence from the tuned model on the rows of a step; 0 without rows."""
        count = len(self.rows)
        if not count:
            return 0.0
        return self._divergence(np.arange(step * self.size, (step + 1) * self.size) % count).mean()

    @torch.no_grad()
    def mean(self) -> float:
        """The mean divergence on all rows, in nats per token; 0 without rows."""
        chunks = np.array_split(np.arange(len(self.rows)), max(1, len(self.rows) // 8))
        found = [self._divergence(chunk) for chunk in chunks if len(chunk)]
        return float(torch.cat(found).mean()) if found else 0.0

    def _divergence(self, rows: IntArray) -> Tensor:
        batch = self.rows.pad(rows)
        mask = response_positions(batch.mask, TASK_TOKENS)
        predictions = self.predictor.predict(batch.tokens, mask)
        tuned = TopLogProbs.join([self.top[int(row)] for row in rows])
        return row_means(divergence(tuned, predictions), mask[:, 1:].to(predictions.values.device))


# -- by scale ----------------------------------------------------------------------------------------------------------


def lora_layers(model: Any) -> list[Any]:
    """The layers with a LoRA adapter. Raises UserError if there is none."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers:
        raise UserError("this adapter is no LoRA adapter; only LoRA can be repaired")
    return layers


@contextmanager
def scaled_by(layers: Sequence[Any], factor: float) -> Iterator[None]:
    """The adapter multiplied by a factor, in the context."""
    before = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling = {name: value * factor for name, value in layer.scaling.items()}
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling = scaling


def _search_scale(layers: Sequence[Any], guard: Guard, kept: KeptTask) -> tuple[float, Record | None]:
    """The largest factor that satisfies the constraint at little cost, and what is measured with it; None if none does.

    Without rows of the task the cost cannot be seen, and no factor is taken.
    """
    for scale in SCALES if len(kept.rows) else ():
        with scaled_by(layers, scale):
            cost = kept.mean()
            if cost > TASK_COST:  # smaller factors cost more
                break
            record = guard.measure(0)
        if guard.is_satisfied(record):
            return scale, record | {"task_divergence": cost}
    return 1.0, None


@torch.no_grad()
def _multiply(layers: Sequence[Any], factor: float) -> None:
    """Multiply the weights themselves, so that the factor is saved with them."""
    for layer in layers:
        for weights in (*layer.lora_B.values(), *getattr(layer, "lora_embedding_B", {}).values()):
            getattr(weights, "weight", weights).mul_(factor)


# -- by steps ----------------------------------------------------------------------------------------------------------


def _descend(
    parameters: Sequence[torch.nn.Parameter],
    guard: Guard,
    kept: KeptTask,
    settings: RepairSettings,
    advance: Callable[[int, int, Record], None],
) -> tuple[int, Record]:
    """Steps on (2) until the constraint holds at little cost of the task.

    The step is kept at which it holds and costs least; the last one, if it never does.

    Returns:
        The number of the step, and its measurement.
    """
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)
    record: Record = {}
    best: Record | None = None
    kept_weights: list[Tensor] = []
    for step in range(1, settings.steps + 1):
        _step(optimizer, parameters, guard, kept, step)
        if step % settings.watch_every and step < settings.steps:
            continue
        guard.watch(step)
        record = guard.history[-1] | {"task_divergence": kept.mean()}
        advance(step, settings.steps, record)
        if guard.is_satisfied(record) and (best is None or record["task_divergence"] <= best["task_divergence"]):
            best, kept_weights = record, [parameter.detach().clone() for parameter in parameters]
            if record["task_divergence"] <= TASK_COST:
                break
    if best is None:
        return settings.steps, record
    with torch.no_grad():
        for parameter, value in zip(parameters, kept_weights, strict=True):
            parameter.copy_(value)
    return int(best["step"]), best


def _step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter], guard: Guard, kept: KeptTask, step: int
) -> None:
    loss, _ = guard.loss(step - 1)
    (loss + kept.loss(step - 1)).backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    if not norm.isfinite():
        raise RunError("repair: the gradient is not finite; lower the learning rate")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
