"""How many tokens a model can read at once, from its configuration and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "context_length",
    "n_ctx",
)
"""Keys of a config.json that state the number of positions; families spell it differently."""
STRETCHED = ("linear", "dynamic", "yarn")
"""Kinds of rotary scaling whose factor multiplies the positions; for the others the config states them in full."""
UNLIMITED = 10**9
"""A tokenizer without a limit states a number far above this one."""


class Limit(NamedTuple):
    """The largest number of tokens, and what it is a number of, for messages."""

    tokens: int
    of: str


def positions(values: Mapping[str, Any]) -> int | None:
    """The positions of a language model with this config.json; None if it has no limit or states none."""
    found = min((values[key] for key in POSITIONS if _is_count(values.get(key))), default=None)
    return None if found is None else max(found, _stretched(values, found))


def find_limit(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Limit | None:
    """The smaller one of the model's positions and the tokenizer's ``model_max_length``; None without any."""
    of_model = positions(config.get_text_config().to_dict())
    of_tokenizer = tokenizer.model_max_length
    limits = [Limit(of_model, "positions of the model")] if of_model else []
    if _is_count(of_tokenizer) and of_tokenizer < UNLIMITED:
        limits.append(Limit(int(of_tokenizer), "tokens that the tokenizer allows (model_max_length)"))
    return min(limits, key=lambda limit: limit.tokens, default=None)


def _stretched(values: Mapping[str, Any], found: int) -> int:
    """The positions after rotary scaling; 0 without it. Layers that are scaled differently state them in full."""
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    factor = rope.get("factor")
    if rope.get("rope_type", rope.get("type")) not in STRETCHED or not isinstance(factor, int | float):
        return 0
    return int(rope.get("original_max_position_embeddings", found) * factor)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
