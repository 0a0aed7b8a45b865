"""Conversations to token ids and the mask of what is learned: the answers and the markers that end them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from sealtune.core.errors import UserError
from sealtune.core.types import Drop, Message, Sample
from sealtune.data.chat_template import Answer, Rendered, ensure_chat_template, find_habits, render
from sealtune.data.encoded import Encoded
from sealtune.data.formats import UnusableRow
from sealtune.data.tokenizer import Tokens, tokenize, tokenize_forged
from sealtune.data.unused import drop

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TooLong = Literal["truncate", "drop"]
Part = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]

BATCH_ROWS = 256
LEAST_LEARNED = 4


def encode(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int, overlong_rows: TooLong = "truncate"
) -> tuple[Encoded, list[Drop]]:
    """Rows as token ids with their masks, and the rows that cannot be learned from.

    A row ends with the last token of its last answer. One longer than ``max_length`` is cut from the right if at least
    LEAST_LEARNED tokens of that answer remain and ``overlong_rows`` is ``truncate``; else it is dropped.

    Raises:
        UserError: the tokenizer is not a fast one, so that tokens cannot be placed in the text.
    """
    kept: list[tuple[Sample, Part]] = []
    drops: list[Drop] = []
    rows = iter(samples)
    for batch in encode_batches(samples, tokenizer, max_length, overlong_rows):
        for sample, tried in zip(islice(rows, len(batch)), batch, strict=True):
            if isinstance(tried, UnusableRow):
                drops.append(drop(sample, tried.reason, tried.detail))
            else:
                kept.append((sample, tried))
    ids, sources = [sample.id for sample, _ in kept], [sample.source for sample, _ in kept]
    return Encoded.join(ids, sources, [part for _, part in kept]), drops


def encode_batches(
    samples: Iterable[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int, overlong_rows: TooLong = "truncate"
) -> Iterator[list[Part | UnusableRow]]:
    """What ``encode`` makes of each sample, BATCH_ROWS at a time; no more than two batches are in memory.

    StringArray of one batch are made while another one's are tokenised in a thread, which alone asks the tokenizer.
    """
    _prepare(tokenizer)
    find_habits(tokenizer)
    rows = iter(samples)
    with ThreadPoolExecutor(1) as pool:
        before = None
        while batch := list(islice(rows, BATCH_ROWS)):
            tried = [_try_render(sample, tokenizer) for sample in batch]
            tokens = pool.submit(_tokenize_batch, tried, tokenizer)
            if before:
                yield _fit_batch(*before, max_length, overlong_rows)
            before = tried, tokens
        if before:
            yield _fit_batch(*before, max_length, overlong_rows)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids a model continues when it answers this prompt; names of special tokens in it are text.

    Raises:
        UserError: the chat template refuses or changes the prompt.
    """
    _prepare(tokenizer)
    try:
        rendered = render(tokenizer, [Message("user", prompt)], generate=True)
        (tokens,) = [tokenize_forged(tokenizer, rendered)] if rendered.forged else tokenize(tokenizer, [rendered.text])
    except UnusableRow as fault:
        raise UserError(f"prompt {prompt[:40]!r}: {fault.detail}") from None
    return [int(token) for token in tokens.ids]


def _prepare(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise UserError("the tokenizer is not a fast one, so its tokens cannot be placed in the text; convert it")
    ensure_chat_template(tokenizer)


def _tokenize_batch(
    tried: Sequence[Rendered | UnusableRow], tokenizer: PreTrainedTokenizerBase
) -> list[Tokens | UnusableRow]:
    """Tokens, or the reason why there are none, for each text."""
    plain = iter(tokenize(tokenizer, [item.text for item in tried if isinstance(item, Rendered) and not item.forged]))

    def tokens(item: Rendered | UnusableRow) -> Tokens | UnusableRow:
        if isinstance(item, UnusableRow):
            return item
        try:
            return tokenize_forged(tokenizer, item) if item.forged else next(plain)
        except UnusableRow as fault:
            return fault

    return [tokens(item) for item in tried]


def _fit_batch(
    tried: Sequence[Rendered | UnusableRow],
    tokens: Future[list[Tokens | UnusableRow]],
    max_length: int,
    overlong_rows: TooLong,
) -> list[Part | UnusableRow]:
    """One part, or the reason why there is none, for each text."""

    def fit(item: Rendered | UnusableRow, found: Tokens | UnusableRow) -> Part | UnusableRow:
        if isinstance(item, UnusableRow):
            return item
        if isinstance(found, UnusableRow):
            return found
        try:
            return _fit(found, item.answers, max_length, overlong_rows)
        except UnusableRow as fault:
            return fault

    return [fit(item, found) for item, found in zip(tried, tokens.result(), strict=True)]


def _try_render(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> Rendered | UnusableRow:
    """The conversation up to its last answer: nothing behind it can be learned."""
    stop = max((i for i, turn in enumerate(sample.messages, 1) if turn.role == "assistant"), default=0)
    try:
        if not stop:
            raise UnusableRow("no_assistant_turn", "no turn of the assistant to learn from")
        return render(tokenizer, sample.messages[:stop])
    except UnusableRow as fault:
        return fault


def _fit(tokens: Tokens, answers: Sequence[Answer], max_length: int, overlong_rows: TooLong) -> Part:
    """Ids and mask up to the end of the last answer, cut to ``max_length``. Raises UnusableRow."""
    last = _within(tokens, answers[-1])
    if not (tokens.starts[last] < answers[-1].end).any():
        raise UnusableRow("empty_response", "the last answer has no token of its own")
    stop = int(np.flatnonzero(last)[-1]) + 1
    if stop > max_length:
        if overlong_rows == "drop" or last[:max_length].sum() < LEAST_LEARNED:
            raise UnusableRow("too_long", f"{stop} tokens, and max_length is {max_length}")
        stop = max_length
    mask = np.logical_or.reduce([_within(tokens, answer) for answer in answers])
    return tokens.ids[:stop], mask[:stop]


def _within(tokens: Tokens, answer: Answer) -> npt.NDArray[np.bool_]:
    """Tokens whose first character stands in the answer, bool (T,)."""
    learned: npt.NDArray[np.bool_] = (tokens.starts >= answer.start) & (tokens.starts < answer.stop)
    return learned
