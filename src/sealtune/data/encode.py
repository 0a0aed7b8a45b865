"""Conversations to token ids and the loss mask: the responses and the special tokens that end them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from sealtune.core.errors import UserError
from sealtune.core.types import Drop, Message, Sample
from sealtune.data.chat_template import Rendered, ResponseSpan, ensure_chat_template, get_template_info, render
from sealtune.data.encoded import Encoded, TokensAndMask
from sealtune.data.formats import UnusableRow
from sealtune.data.row_store import drop
from sealtune.data.tokenizer import Tokens, tokenize, tokenize_with_literals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OverlongRows = Literal["truncate", "drop"]

BATCH_ROWS = 256
MIN_RESPONSE_TOKENS = 4


def encode(
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlong_rows: OverlongRows = "truncate",
) -> tuple[Encoded, list[Drop]]:
    """Token ids and loss masks of the rows, and the rows that cannot be trained on.

    A row ends with the last token of its last response. A row longer than ``max_length`` is truncated on the right if
    at least MIN_RESPONSE_TOKENS tokens of that response remain and ``overlong_rows`` is ``truncate``; otherwise it is
    dropped.

    Raises:
        UserError: the tokenizer is not a fast one, so it has no offsets.
    """
    kept: list[tuple[Sample, TokensAndMask]] = []
    drops: list[Drop] = []
    rows = iter(samples)
    for batch in encode_batches(samples, tokenizer, max_length, overlong_rows):
        for sample, result in zip(islice(rows, len(batch)), batch, strict=True):
            if isinstance(result, UnusableRow):
                drops.append(drop(sample, result.reason, result.detail))
            else:
                kept.append((sample, result))
    ids, sources = [sample.id for sample, _ in kept], [sample.source for sample, _ in kept]
    return Encoded.join(ids, sources, [row for _, row in kept]), drops


def encode_batches(
    samples: Iterable[Sample],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlong_rows: OverlongRows = "truncate",
) -> Iterator[list[TokensAndMask | UnusableRow]]:
    """What ``encode`` makes of each sample, BATCH_ROWS at a time; at most two batches are in memory.

    A batch is rendered while the previous one is tokenized in a thread, the only one that calls the tokenizer.
    """
    _prepare(tokenizer)
    get_template_info(tokenizer)
    rows = iter(samples)
    with ThreadPoolExecutor(1) as pool:
        previous = None
        while batch := list(islice(rows, BATCH_ROWS)):
            rendered = [_try_render(sample, tokenizer) for sample in batch]
            tokens = pool.submit(_tokenize_batch, rendered, tokenizer)
            if previous:
                yield _fit_batch(*previous, max_length, overlong_rows)
            previous = rendered, tokens
        if previous:
            yield _fit_batch(*previous, max_length, overlong_rows)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids that a model continues to answer this prompt; names of special tokens in it stay plain text.

    Raises:
        UserError: the chat template refuses or changes the prompt.
    """
    _prepare(tokenizer)
    try:
        rendered = render(tokenizer, [Message("user", prompt)], generate=True)
        if rendered.has_literals:
            tokens = tokenize_with_literals(tokenizer, rendered)
        else:
            (tokens,) = tokenize(tokenizer, [rendered.text])
    except UnusableRow as error:
        raise UserError(f"prompt {prompt[:40]!r}: {error.detail}") from None
    return [int(token) for token in tokens.ids]


def _prepare(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise UserError("the tokenizer is not a fast one, so it has no token offsets; convert it to a fast one")
    ensure_chat_template(tokenizer)


def _try_render(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> Rendered | UnusableRow:
    """The conversation up to its last response: nothing after it contributes to the loss."""
    stop = max((i for i, turn in enumerate(sample.messages, 1) if turn.role == "assistant"), default=0)
    if not stop:
        return UnusableRow("no_assistant_turn", "no assistant turn to train on")
    try:
        return render(tokenizer, sample.messages[:stop])
    except UnusableRow as error:
        return error


def _tokenize_batch(
    batch: Sequence[Rendered | UnusableRow], tokenizer: PreTrainedTokenizerBase
) -> list[Tokens | UnusableRow]:
    """The tokens of each text, or why it has none."""
    plain = [row.text for row in batch if isinstance(row, Rendered) and not row.has_literals]
    plain_tokens = iter(tokenize(tokenizer, plain))
    return [_tokens_of(row, plain_tokens, tokenizer) for row in batch]


def _tokens_of(
    row: Rendered | UnusableRow, plain_tokens: Iterator[Tokens], tokenizer: PreTrainedTokenizerBase
) -> Tokens | UnusableRow:
    if isinstance(row, UnusableRow):
        return row
    if not row.has_literals:
        return next(plain_tokens)
    try:
        return tokenize_with_literals(tokenizer, row)
    except UnusableRow as error:
        return error


def _fit_batch(
    rendered: Sequence[Rendered | UnusableRow],
    tokens: Future[list[Tokens | UnusableRow]],
    max_length: int,
    overlong_rows: OverlongRows,
) -> list[TokensAndMask | UnusableRow]:
    """Ids and mask of each row, or why it has none."""
    return [
        _try_fit(row, found, max_length, overlong_rows) for row, found in zip(rendered, tokens.result(), strict=True)
    ]


def _try_fit(
    rendered: Rendered | UnusableRow, tokens: Tokens | UnusableRow, max_length: int, overlong_rows: OverlongRows
) -> TokensAndMask | UnusableRow:
    if isinstance(rendered, UnusableRow):
        return rendered
    if isinstance(tokens, UnusableRow):
        return tokens
    try:
        return _fit(tokens, rendered.responses, max_length, overlong_rows)
    except UnusableRow as error:
        return error


def _fit(
    tokens: Tokens, responses: Sequence[ResponseSpan], max_length: int, overlong_rows: OverlongRows
) -> TokensAndMask:
    """Ids and mask up to the end of the last response, truncated to ``max_length``. Raises UnusableRow."""
    last = _response_mask(tokens, responses[-1])
    if not (tokens.starts[last] < responses[-1].end).any():
        raise UnusableRow("empty_response", "the last response has no token of its own")
    stop = int(np.flatnonzero(last)[-1]) + 1
    if stop > max_length:
        if overlong_rows == "drop" or last[:max_length].sum() < MIN_RESPONSE_TOKENS:
            raise UnusableRow("too_long", f"{stop} tokens, and max_length is {max_length}")
        stop = max_length
    mask = np.logical_or.reduce([_response_mask(tokens, response) for response in responses])
    return tokens.ids[:stop], mask[:stop]


def _response_mask(tokens: Tokens, response: ResponseSpan) -> npt.NDArray[np.bool_]:
    """Tokens whose first character is in the response, bool (T,)."""
    mask: npt.NDArray[np.bool_] = (tokens.starts >= response.start) & (tokens.starts < response.stop)
    return mask
