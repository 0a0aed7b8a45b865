"""Pairs of a safe and an unsafe answer to the same prompt: which one is more probable needs no judge."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from sealtune.core.config import DatasetConfig, PairsConfig
from sealtune.core.console import Advance
from sealtune.core.errors import RunError, UserError
from sealtune.core.string_array import FloatArray
from sealtune.core.types import Message, Sample
from sealtune.data.encode import encode
from sealtune.data.encoded import Encoded
from sealtune.data.sources import read_rows
from sealtune.models.causal_lm import dataset_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

FIELDS: tuple[Literal["prompt", "safe", "unsafe"], ...] = ("prompt", "safe", "unsafe")


class Pair(NamedTuple):
    """A prompt with a safe and an unsafe answer."""

    id: str
    prompt: str
    safe: str
    unsafe: str


class EncodedPairs(NamedTuple):
    """The tokens of the safe and of the unsafe answers with their prompts, K rows each."""

    safe: Encoded
    unsafe: Encoded


class Margins(NamedTuple):
    """log p(safe) - log p(unsafe) of each pair, (K,), in nats: of whole answers, and of their means per token."""

    summed: FloatArray
    per_token: FloatArray


def load_pairs(config: PairsConfig) -> list[Pair]:
    """The pairs of a file.

    Raises:
        UserError: the file cannot be read or has no rows; a row lacks a column, or one has no text.
    """
    found = []
    for number, (where, row) in enumerate(read_rows(DatasetConfig(path=config.path)), 1):
        texts = [_text(where, row, config.columns.get(field, field), field) for field in FIELDS]
        found.append(Pair(str(row.get("id") or number), *texts))
        if len(found) == config.limit:
            break
    if not found:
        raise UserError(f"evaluate.pairs: {config.path} has no rows")
    return found


def encode_pairs(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedPairs:
    """The tokens of the pairs; a pair is left out, with a warning, if one of its answers is too long or unusable.

    Raises:
        UserError: no pair is left.
    """
    sides: list[Encoded] = []
    unusable: dict[str, str] = {}
    for side in ("safe", "unsafe"):
        samples = [_sample(str(i), pair.prompt, getattr(pair, side)) for i, pair in enumerate(pairs)]
        encoded, drops = encode(samples, tokenizer, max_length, "drop")
        sides.append(encoded)
        unusable |= {drop.id: f"{side} answer: {drop.detail}" for drop in drops}
    if unusable:
        first, why = next(iter(unusable.items()))
        counts = f"{len(unusable):,} of {len(pairs):,} left out"
        if len(unusable) == len(pairs):
            raise UserError(f"evaluate.pairs: {counts}; the first, {pairs[int(first)].id}: {why}")
        logger.warning("pairs: %s; the first, %s: %s", counts, pairs[int(first)].id, why)
    kept = [str(i) for i in range(len(pairs)) if str(i) not in unusable]
    return EncodedPairs(*(encoded.isin(kept) for encoded in sides))


def margins(model: PreTrainedModel, pairs: EncodedPairs, batch_size: int, advance: Advance) -> Margins:
    """The margins of a model; the token that ends an answer counts.

    Raises:
        RunError: a log-probability is NaN or infinite.
    """
    means = [_mean_log_probs(model, encoded, batch_size, advance) for encoded in pairs]
    if not all(np.isfinite(mean).all() for mean in means):
        raise RunError("evaluate.pairs: the log-probability of an answer is not finite")
    safe, unsafe = (mean * _response_lengths(encoded) for mean, encoded in zip(means, pairs, strict=True))
    return Margins(safe - unsafe, means[0] - means[1])


def _mean_log_probs(model: PreTrainedModel, encoded: Encoded, batch_size: int, advance: Advance) -> FloatArray:
    values = np.empty(len(encoded))
    total = -(-len(encoded) // batch_size)
    for step, (rows, losses) in enumerate(dataset_losses(model, encoded, batch_size), 1):
        values[rows] = -losses.numpy()
        advance(step, total, len(rows), int(encoded.lengths_of(rows).sum()))
    return values


def _response_lengths(encoded: Encoded) -> FloatArray:
    return np.array([encoded.row(i)[1].sum() for i in range(len(encoded))], np.float64)


def _sample(row_id: str, prompt: str, answer: str) -> Sample:
    return Sample(row_id, (Message("user", prompt), Message("assistant", answer)), "pairs", {})


def _text(where: str, row: Mapping[str, Any], column: str, field: str) -> str:
    if column not in row:
        found = ", ".join(map(str, row)) or "none"
        raise UserError(
            f"{where}: no column {column!r}; columns found: {found}; name it in evaluate.pairs.columns.{field}"
        )
    if not isinstance(row[column], str) or not row[column].strip():
        raise UserError(f"{where}: column {column!r} has no text; a pair needs a prompt, a safe and an unsafe answer")
    return str(row[column])
