"""Conversations to token ids and the loss mask: the responses and the special tokens that end them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from sealtune.core.errors import UserError
from sealtune.core.types import Drop, Message, Sample
from sealtune.data.chat_template import ensure_chat_template, get_template_info
from sealtune.data.encoded import Encoded, TokensAndMask
from sealtune.data.render import Rendered, ResponseSpan, TemplateMarkers, render
from sealtune.data.row_store import drop
from sealtune.data.tokenizer import Tokens, tokenize, tokenize_with_literals
from sealtune.data.turns import UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OverlongRows = Literal["truncate", "drop"]

BATCH_ROWS = 256
CUT_AFTER_ANSWER = "the turns after their last answer are cut off: nothing answers them"
PLACEHOLDER = "\U000ffffd"
"""An answer that no prompt contains: the last private-use character of a plane."""
MIN_RESPONSE_TOKENS = 4


@dataclass(frozen=True)
class EncodeOptions:
    """How rows become tokens.

    Attributes:
        max_length: maximum number of tokens of a row.
        overlong_rows: whether a longer row is cut at the end or dropped.
        template_markers: whether a content that spells out special tokens of the template is refused or plain text.
    """

    max_length: int
    overlong_rows: OverlongRows = "truncate"
    template_markers: TemplateMarkers = "refuse"


def encode(
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlong_rows: OverlongRows = "truncate",
    template_markers: TemplateMarkers = "text",
) -> tuple[Encoded, list[Drop]]:
    """Token ids and loss masks of the rows, and the rows that cannot be trained on.

    A row ends with the last token of its last response. A row longer than ``max_length`` is truncated on the right if
    at least MIN_RESPONSE_TOKENS tokens of that response remain and ``overlong_rows`` is ``truncate``; otherwise it is
    dropped.

    Raises:
        UserError: the tokenizer is not a fast one, so it has no offsets.
    """
    options = EncodeOptions(max_length, overlong_rows, template_markers)
    return join_batches(samples, encode_batches(samples, tokenizer, options))


def join_batches(
    samples: Iterable[Sample], batches: Iterable[Sequence[TokensAndMask | UnusableRow]]
) -> tuple[Encoded, list[Drop]]:
    """What ``encode_batches`` has made of these samples, in memory: the tokens, and the rows without any."""
    kept: list[tuple[Sample, TokensAndMask]] = []
    drops: list[Drop] = []
    rows = iter(samples)
    for batch in batches:
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
    options: EncodeOptions,
    notes: Counter[str] | None = None,
) -> Iterator[list[TokensAndMask | UnusableRow]]:
    """What ``encode`` makes of each sample, BATCH_ROWS at a time; at most two batches are in memory.

    A batch is rendered while the previous one is tokenized in a thread, the only one that calls the tokenizer.

    Args:
        samples: the rows.
        tokenizer: one with a chat template.
        options: how rows become tokens.
        notes: counts the rows that were changed to fit the template, by what was changed.
    """
    _prepare(tokenizer)
    get_template_info(tokenizer)
    rows = iter(samples)
    with ThreadPoolExecutor(1) as pool:
        previous = None
        while batch := list(islice(rows, BATCH_ROWS)):
            rendered = [_try_render(sample, tokenizer, options.template_markers) for sample in batch]
            if notes is not None:
                notes.update(note for row in rendered if isinstance(row, Rendered) for note in row.notes)
            tokens = pool.submit(_tokenize_batch, rendered, tokenizer)
            if previous:
                yield _fit_batch(*previous, options)
            previous = rendered, tokens
        if previous:
            yield _fit_batch(*previous, options)


def learned_part(messages: Sequence[Message]) -> Sequence[Message]:
    """The conversation up to its last answer that is learned: nothing after it contributes to the loss."""
    learned = (i for i, turn in enumerate(messages, 1) if turn.is_learned)
    return messages[: max(learned, default=0)]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, *, opened: bool = False) -> list[int]:
    """Token ids of the prefix on which the answer to this prompt is trained.

    Names of special tokens in the prompt stay plain text.

    Args:
        tokenizer: one with a chat template.
        prompt: a user's turn.
        opened: whether to add what the template writes at the start of every answer, such as a channel's name or an
            empty block of thinking. With it, a model is asked to continue: it need not write that by itself.

    Raises:
        UserError: the chat template refuses or changes the prompt.
    """
    _prepare(tokenizer)
    try:
        whole = render(tokenizer, [Message("user", prompt), Message("assistant", PLACEHOLDER)])
        start = whole.responses[0].start
        if opened:
            start = max(start, whole.text.index(PLACEHOLDER, start))
            start -= whole.text.endswith(" ", 0, start)  # it is part of the answer's first token
        specials = tuple(span for span in whole.special_tokens if span[1] <= start)
        rendered = Rendered(whole.text[:start], (), specials, whole.has_literals)
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


def _try_render(
    sample: Sample, tokenizer: PreTrainedTokenizerBase, template_markers: TemplateMarkers
) -> Rendered | UnusableRow:
    """The part of the conversation that contributes to the loss."""
    messages = learned_part(sample.messages)
    if not messages:
        return UnusableRow("no_assistant_turn", "no assistant turn to train on")
    try:
        rendered = render(tokenizer, messages, sample.tools, template_markers)
    except UnusableRow as error:
        return error
    if any(turn.role != "assistant" for turn in sample.messages[len(messages) :]):
        return replace(rendered, notes=(*rendered.notes, CUT_AFTER_ANSWER))
    return rendered


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
    options: EncodeOptions,
) -> list[TokensAndMask | UnusableRow]:
    """Ids and mask of each row, or why it has none."""
    return [_try_fit(row, found, options) for row, found in zip(rendered, tokens.result(), strict=True)]


def _try_fit(
    rendered: Rendered | UnusableRow, tokens: Tokens | UnusableRow, options: EncodeOptions
) -> TokensAndMask | UnusableRow:
    if isinstance(rendered, UnusableRow):
        return rendered
    if isinstance(tokens, UnusableRow):
        return tokens
    try:
        return _fit(tokens, rendered.responses, options)
    except UnusableRow as error:
        return error


def _fit(tokens: Tokens, responses: Sequence[ResponseSpan], options: EncodeOptions) -> TokensAndMask:
    """Ids and mask up to the end of the last response, truncated to ``max_length``. Raises UnusableRow."""
    last = _response_mask(tokens, responses[-1])
    if not (tokens.starts[last] < responses[-1].end).any():
        raise UnusableRow("empty_response", "the last response has no token of its own")
    stop = int(np.flatnonzero(last)[-1]) + 1
    if stop > options.max_length:
        if options.overlong_rows == "drop" or last[: options.max_length].sum() < MIN_RESPONSE_TOKENS:
            raise UnusableRow("too_long", f"{stop} tokens, and max_length is {options.max_length}")
        stop = options.max_length
    mask = np.logical_or.reduce([_response_mask(tokens, response) for response in responses])
    return tokens.ids[:stop], mask[:stop]


def _response_mask(tokens: Tokens, response: ResponseSpan) -> npt.NDArray[np.bool_]:
    """Tokens whose first character is in the response, bool (T,)."""
    mask: npt.NDArray[np.bool_] = (tokens.starts >= response.start) & (tokens.starts < response.stop)
    return mask
