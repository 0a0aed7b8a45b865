"""Conversations as text by the tokenizer's chat template, with the spans of the responses.

The template is applied twice: to the conversation as it is, and with sentinel characters around every content. The
sentinels separate template text from contents, so the loss mask follows from the template itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import TemplateError

from sealtune.core.types import Message
from sealtune.data.formats import UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]

SENTINELS = range(0xF0000, 0xFFFFE)
"""A private-use plane of Unicode."""

DEFAULT_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ '### ' + message['role'].title() + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}"
    "{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)


class ResponseSpan(NamedTuple):
    """A response is ``text[start:end]``; together with the special token that ends its turn, ``text[start:stop]``."""

    start: int
    end: int
    stop: int


class Rendered(NamedTuple):
    """A conversation as text; all spans count characters of ``text``.

    Attributes:
        text: what the chat template wrote.
        responses: the assistant turns.
        special_tokens: spans of the special tokens that the template wrote.
        has_literals: whether a content spells out a special token, which must be encoded as plain text.
    """

    text: str
    responses: tuple[ResponseSpan, ...]
    special_tokens: tuple[Span, ...]
    has_literals: bool


@dataclass(frozen=True)
class TemplateInfo:
    """Properties of a tokenizer and its chat template; ``special_tokens`` matches its special tokens."""

    supports_system_role: bool
    special_tokens: re.Pattern[str]


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set DEFAULT_TEMPLATE if the tokenizer has no chat template, so that training and generation use the same one."""
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_TEMPLATE


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The text that a model continues to answer this prompt. Raises UnusableRow."""
    return render(tokenizer, [Message("user", prompt)], generate=True).text


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generate: bool = False) -> Rendered:
    """The conversation as text, with the spans of its responses.

    Args:
        tokenizer: one with a chat template.
        messages: the conversation.
        generate: whether to add the generation prompt.

    Raises:
        UnusableRow: the template refuses the conversation, or changes a content beyond trimming whitespace.
    """
    info = get_template_info(tokenizer)
    turns = list(messages) if info.supports_system_role else _merge_system(messages)
    text = _apply(tokenizer, turns, generate)
    contents = _locate_contents(tokenizer, turns, generate, text)
    specials = _special_tokens_outside(contents, text, info.special_tokens)
    responses = tuple(
        _response_span(text, span, specials)
        for turn, span in zip(turns, contents, strict=True)
        if turn.role == "assistant"
    )
    has_literals = specials != tuple(match.span() for match in info.special_tokens.finditer(text))
    return Rendered(text, responses, specials, has_literals)


def get_template_info(tokenizer: PreTrainedTokenizerBase) -> TemplateInfo:
    """Properties of the tokenizer with its present template, cached."""
    return _probe(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _probe(tokenizer: PreTrainedTokenizerBase, template: str) -> TemplateInfo:
    turn = _try(tokenizer, [Message("user", "x")], generate=True)
    added = tokenizer.added_tokens_decoder.values()
    # Some models mark turns with added tokens that are not "special"; those in a rendered turn are treated as special.
    names = [token.content for token in added if token.special or (token.content.strip() and token.content in turn)]
    longest_first = sorted(names, key=len, reverse=True)
    system = _try(tokenizer, [Message("system", "sealtune"), Message("user", "x")])
    return TemplateInfo("sealtune" in system, re.compile("|".join(map(re.escape, longest_first)) or "(?!)"))


def _try(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generate: bool = False) -> str:
    try:
        return _apply(tokenizer, messages, generate)
    except UnusableRow:
        return ""


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generate: bool) -> str:
    turns = [message._asdict() for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate))
    except (TemplateError, TypeError, ValueError) as error:
        raise UnusableRow("template_refuses", f"the chat template: {error}") from None


def _merge_system(messages: Sequence[Message]) -> list[Message]:
    """For templates without a system role: prepend the system prompt to the first user turn."""
    if not messages or messages[0].role != "system":
        return list(messages)
    system, *rest = messages
    if rest and rest[0].role == "user":
        return [Message("user", f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
    return [Message("user", system.content), *rest]


def _locate_contents(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], generate: bool, text: str
) -> list[Span]:
    """The span of each turn's content in ``text``. Raises UnusableRow."""
    sentinels = _unused_sentinels("".join(turn.content for turn in turns), 2 * len(turns))
    pairs = [sentinels[i : i + 2] for i in range(0, len(sentinels), 2)]
    marked = [Message(turn.role, pair[0] + turn.content + pair[1]) for turn, pair in zip(turns, pairs, strict=True)]
    return _align(_apply(tokenizer, marked, generate), text, pairs)


def _unused_sentinels(text: str, count: int) -> str:
    """Sentinel characters that do not occur in the text. Raises UnusableRow."""
    used = set(text)
    unused = "".join(islice((mark for mark in map(chr, SENTINELS) if mark not in used), count))
    if len(unused) < count:
        raise UnusableRow("too_many_turns", f"more than {len(SENTINELS) // 2} turns")
    return unused


def _align(marked: str, text: str, pairs: Sequence[str]) -> list[Span]:
    """Spans in ``text`` of the contents that are between the pairs of sentinels in ``marked``.

    Apart from the sentinels, the two differ in whitespace that the template trims, but cannot trim next to a sentinel.

    Raises:
        UnusableRow: they differ in more than that.
    """
    before, *pieces = re.split(f"([{''.join(pairs)}])", marked)
    records = [pieces[i : i + 4] for i in range(0, len(pieces), 4)]  # sentinel, content, sentinel, template text
    if len(records) != len(pairs) or len(pieces) % 4 or not text.startswith(before):
        raise _rewritten()
    turn_of = {pair: turn for turn, pair in enumerate(pairs)}
    spans: dict[int, Span] = {}
    position = len(before)
    for opening, content, closing, after in records:
        turn = turn_of.pop(opening + closing, None)
        end = _find_end(content, after, text, position)
        if turn is None or end is None:
            raise _rewritten()
        spans[turn] = (position, end)
        position = end + len(after)
    if position != len(text):
        raise _rewritten()
    return [spans[turn] for turn in range(len(pairs))]


def _find_end(content: str, after: str, text: str, start: int) -> int | None:
    """Where the content that begins at ``start`` ends, as it is or trimmed, if ``after`` follows; else None."""
    for trimmed in (
        content,
        content.strip(),
        content.lstrip(),
        content.rstrip(),
        content.strip("\n"),
        content.lstrip("\n"),
    ):
        end = start + len(trimmed)
        if text.startswith(trimmed, start) and text.startswith(after, end):
            return end
    return None


def _rewritten() -> UnusableRow:
    return UnusableRow("template_rewrites_answer", "the chat template changes or leaves out a content")


def _special_tokens_outside(contents: Sequence[Span], text: str, pattern: re.Pattern[str]) -> tuple[Span, ...]:
    """Spans of the special tokens in the template's own text."""
    edges = [0, *(edge for span in sorted(contents) for edge in span), len(text)]
    template_spans = zip(edges[::2], edges[1::2], strict=True)
    return tuple(match.span() for start, end in template_spans for match in pattern.finditer(text, start, end))


def _response_span(text: str, content: Span, special_tokens: Sequence[Span]) -> ResponseSpan:
    """The response, up to the special token that ends its turn if only whitespace comes before that token."""
    start, end = content
    following = next((span for span in special_tokens if span[0] >= end), None)
    # A space before the content belongs to it: tokenizers make it part of the first token (`[/INST] Yes` -> `▁Yes`).
    start -= text.endswith(" ", 0, start)
    if following is None or text[end : following[0]].strip():
        return ResponseSpan(start, end, end)
    return ResponseSpan(start, end, following[1])
