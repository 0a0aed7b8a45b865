"""Measures of a model that need no generated answers and no judge, prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import torch

from sealtune.core.console import Advance
from sealtune.core.errors import RunError
from sealtune.core.types import Prompt
from sealtune.data.encode import encode_prompt
from sealtune.models.openings import TokenIds, log_odds, refusal_log_probs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_SET = "default"


@dataclass(frozen=True, slots=True)
class PromptLikelihood:
    """How likely a model is to refuse a prompt.

    Attributes:
        id: Id of the prompt.
        model: ``base`` or ``tuned``.
        set: Name of the prompt set.
        kind: ``harmful`` or ``harmless``.
        log_odds: log p - log(1 - p), in nats, of the probability p that the answer opens with one of the refusals.
        refusal_log_prob: log p.
    """

    id: str
    model: str
    set: str
    kind: str
    log_odds: float
    refusal_log_prob: float


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """An evaluation prompt and its tokens, up to where the answer starts."""

    prompt: Prompt
    tokens: list[int]


@cache
def default_prompts() -> tuple[Prompt, ...]:
    """The prompts that are shipped: as many harmful as harmless ones, many of the latter alike to a harmful one."""
    text = files("sealtune.evaluation").joinpath("default_prompts.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return tuple(Prompt(f"{DEFAULT_SET}-{row['id']}", row["prompt"], DEFAULT_SET, row["kind"]) for row in rows)


def with_default(asked: Sequence[Prompt]) -> list[Prompt]:
    """The prompts, with those that are shipped unless there are some of both kinds."""
    kinds = {prompt.kind for prompt in asked}
    return [*asked] if kinds >= {"harmful", "harmless"} else [*asked, *default_prompts()]


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[EncodedPrompt], int]:
    """The prompts of at most ``max_length`` tokens, harmful ones first, and the number of longer ones."""
    encoded = [EncodedPrompt(p, encode_prompt(tokenizer, p.prompt, opened=True)) for p in prompts]
    fitting = [e for e in encoded if len(e.tokens) <= max_length]
    return sorted(fitting, key=lambda e: e.prompt.kind != "harmful"), len(encoded) - len(fitting)


def measure_prompts(
    model: PreTrainedModel,
    name: str,
    prompts: Sequence[EncodedPrompt],
    openings: Sequence[TokenIds],
    batch_size: int,
    advance: Advance,
) -> list[PromptLikelihood]:
    """The measures of each prompt, in order.

    Raises:
        RunError: a log-probability is NaN or infinite.
    """
    log_probs = refusal_log_probs(model, [p.tokens for p in prompts], openings, batch_size, advance)
    if not log_probs.isfinite().all():
        bad = [p.prompt.id for p, found in zip(prompts, log_probs, strict=True) if not found.isfinite()][:5]
        raise RunError(f"evaluate: log-probabilities of {name} are not finite on the prompts {', '.join(bad)}")
    columns = torch.stack([log_odds(log_probs), log_probs], 1).tolist()
    return [
        PromptLikelihood(p.prompt.id, name, p.prompt.set, p.prompt.kind, *values)
        for p, values in zip(prompts, columns, strict=True)
    ]
