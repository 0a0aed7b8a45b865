"""KL(start model || tuned model) per position of the answers to harmful prompts: where alignment went.

Fine-tuning changes the first tokens of an answer most. The divergence is taken along the beginning of the start model's
own greedy answer. Of its distribution at each position, the TOP most probable tokens are stored and the others are one
event, so the figure is a lower bound of the full divergence, and neither model needs to be in memory with the other.

Source: Qi et al. (ICLR 2025), arXiv 2406.05946, figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sealtune.core.console import Advance
from sealtune.evaluation.generate import end_tokens, generate_tokens
from sealtune.models.continuations import Network, continuation_logits, evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POSITIONS = 10
TOP = 64


@dataclass(frozen=True, slots=True)
class Reference:
    """What is stored of the start model for one prompt, T <= POSITIONS.

    Attributes:
        id: Id of the prompt.
        tokens: The beginning of its answer, T ids.
        ids: The most probable tokens at each position, (T, K).
        log_probs: Their log-probabilities, (T, K).
    """

    id: str
    tokens: list[int]
    ids: list[list[int]]
    log_probs: list[list[float]]


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
            top = logits.log_softmax(1).topk(min(TOP, logits.shape[1]))
            found[i] = Reference(names[i], tokens[i], top.indices.tolist(), top.values.tolist())
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
            ids = torch.tensor(start[i].ids, device=logits.device)
            own = logits.log_softmax(1).gather(1, ids).cpu().double()
            found[i] = divergence(torch.tensor(start[i].log_probs, dtype=torch.float64), own).tolist()
            if advance is not None:
                advance(len(found), len(rows), 1)
    return [found[i] for i in range(len(rows))]


def divergence(start: Tensor, own: Tensor) -> Tensor:
    """KL, (T,), of distributions over K tokens and all others, from log-probabilities (T, K) in float64."""
    start, own = (torch.cat([p, _log_rest(p)[:, None]], 1) for p in (start, own))
    return (start.exp() * (start - own)).sum(1)


def _log_rest(log_probs: Tensor) -> Tensor:
    """The log-probability of all other tokens, (T,); at least 1e-9 where rounding leaves none."""
    return (1 - log_probs.exp().sum(1)).clamp(min=1e-9).log()


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to the one that ends an answer."""
    stop = next((i for i, token in enumerate(tokens, 1) if token in ends), len(tokens))
    return tokens[:stop]
