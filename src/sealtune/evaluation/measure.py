"""Measures one model: its answers to prompts and its loss on rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sealtune.core.config import EvaluateConfig
from sealtune.core.console import Advance
from sealtune.core.errors import RunError
from sealtune.core.types import Prompt, Response
from sealtune.data.encode import encode_prompt
from sealtune.data.encoded import Encoded
from sealtune.evaluation.generate import generate
from sealtune.evaluation.metrics import mean_interval
from sealtune.models.causal_lm import dataset_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer(
    model: PreTrainedModel,
    name: str,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    settings: EvaluateConfig,
    advance: Advance,
) -> list[Response]:
    """The model's answer to each prompt, in order, decoded greedily."""
    done = 0

    def on_batch(rows: int, total: int, tokens: int) -> None:
        nonlocal done
        advance(rows, total, rows - done, tokens)
        done = rows

    answers = generate(
        model,
        [encode_prompt(tokenizer, prompt.prompt, opened=True) for prompt in prompts],
        tokenizer=tokenizer,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        on_batch=on_batch,
    )
    return [
        Response(p.id, name, p.set, p.kind, p.prompt, text, tokens, finished)
        for p, (text, tokens, finished) in zip(prompts, answers, strict=True)
    ]


def losses(
    model: PreTrainedModel, name: str, set_name: str, encoded: Encoded, batch_size: int, advance: Advance
) -> dict[str, Any]:
    """The mean loss on the rows, in nats per response token, with its 95 % interval, as a row of the evaluation table.

    Raises:
        RunError: a loss is NaN or infinite.
    """
    values = np.empty(len(encoded))
    total = -(-len(encoded) // batch_size)
    for step, (rows, batch) in enumerate(dataset_losses(model, encoded, batch_size), start=1):
        values[rows] = batch.numpy()
        advance(step, total, len(rows), int(encoded.lengths_of(rows).sum()))
    if not np.isfinite(values).all():
        bad = [encoded.ids[i] for i in np.flatnonzero(~np.isfinite(values))[:5]]
        raise RunError(f"evaluate: the loss of {name} on the {set_name} rows {', '.join(bad)} is not finite")
    where = {"model": name, "set": set_name, "kind": "", "judge": ""}
    return where | {"measure": "loss", "title": "loss", "unit": "nats"} | mean_interval(values)._asdict()
