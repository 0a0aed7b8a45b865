"""KL(start model || tuned model) per position of the answers to harmful prompts: where alignment went.

Fine-tuning changes the first tokens of an answer most. The divergence is taken along the beginning of the start model's
own greedy answer. Of its distribution at each position, the most probable tokens are stored and the others are one
event (``models/predictions.py``), so neither model needs to be in memory with the other.

Source: Qi et al. (ICLR 2025), arXiv 2406.05946, figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sealtune.core.console import Advance
from sealtune.evaluation.generate import end_tokens, generate_tokens
from sealtune.models.continuations import Network, continuation_logits, evaluating
from sealtune.models.predictions import Predictions, TopLogProbs, divergence, top_log_probs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POSITIONS = 10


@dataclass(frozen=True, slots=True)
class Reference:
    """What is stored of the start model for one prompt, T <= POSITIONS.

    Attributes:
        id: Id of the prompt.
        tokens: The beginning of its answer, T ids.
        ids: The most probable tokens at each position, (T, K).
        log_probs: Their log-probabilities, (T, K).
        other: Log of the probability of all other tokens together, (T,).
    """

    id: str
    tokens: list[int]
    ids: list[list[int]]
    log_probs: list[list[float]]
    other: list[float]

    def top(self, device: torch.device) -> TopLogProbs:
        """The same as tensors."""
        parts = (torch.tensor(part, device=device) for part in (self.ids, self.log_probs, self.other))
        return TopLogProbs(*parts)


def references(
    model: PreTrainedModel,
    names: Sequence[str],
    prompts: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    advance: Advance | None = None,
) -> list[Reference]:
    """The references of the start model, one per prompt; ``names`` are the ids of the prompts."""
    found: dict[int, Reference] = {}
    ends = end_tokens(model, tokenizer)
    with evaluating(model):
        tokens: dict[int, list[int]] = {}
        for rows, new in generate_tokens(model, prompts, ends, tokenizer, POSITIONS, batch_size):
            tokens.update(zip(rows, (_until_end(answer, ends) for answer in new), strict=True))
            if advance is not None:
                advance(len(tokens), 2 * len(prompts), len(rows))
        rows_of = [(prompts[i], tokens[i]) for i in range(len(prompts))]
        for i, logits in continuation_logits(Network(model), rows_of, batch_size):
            top = top_log_probs(Predictions(logits))
            found[i] = Reference(names[i], tokens[i], *(part.tolist() for part in top))
            if advance is not None:
                advance(len(prompts) + len(found), 2 * len(prompts), 1)
    return [found[i] for i in range(len(prompts))]


def divergences(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    start: Sequence[Reference],
    batch_size: int,
    advance: Advance | None = None,
) -> list[list[float]]:
    """KL(start || model) in nats at each position, per prompt."""
    rows = [(prompt, reference.tokens) for prompt, reference in zip(prompts, start, strict=True)]
    found: dict[int, list[float]] = {}
    with evaluating(model):
        for i, logits in continuation_logits(Network(model), rows, batch_size):
            found[i] = divergence(start[i].top(logits.device), Predictions(logits)).tolist()
            if advance is not None:
                advance(len(found), len(rows), 1)
    return [found[i] for i in range(len(rows))]


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to the one that ends an answer."""
    stop = next((i for i, token in enumerate(tokens, 1) if token in ends), len(tokens))
    return tokens[:stop]
