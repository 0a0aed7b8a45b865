"""Conversations as text by the tokenizer's chat template, with the spans that are learned.

A template that marks what the assistant generates states the spans itself. Elsewhere they follow from two other
renderings: one with sentinels around every content, or, for turns that call tools or think, those of the conversation
up to the turn and after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sealtune.core.types import Message
from sealtune.data.chat_template import THINKING_TAGS, Span, TemplateInfo, Tools, apply, get_template_info
from sealtune.data.content_spans import changed, locate_contents, mark_contents
from sealtune.data.turns import THINKING_FIELD, UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TemplateMarkers = Literal["refuse", "text"]

SYSTEM_AS_USER = "their system prompt is put before the first user turn: the chat template has no place for it"
TOOLS_AS_USER = "their tool results are written as user turns: the chat template has no place for them"
USERS_MERGED = "their consecutive user turns are joined: the chat template wants turns that alternate"
THINKING_LEFT_OUT = "the chat template leaves out thinking, which is not learned"
THINKING_START, THINKING_END = THINKING_TAGS


class ResponseSpan(NamedTuple):
    """A response is ``text[start:end]``; together with the special token that ends its turn, ``text[start:stop]``."""

    start: int
    end: int
    stop: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text; all spans count characters of ``text``.

    Attributes:
        text: what the chat template wrote.
        responses: the assistant turns that are learned.
        special_tokens: spans of the special tokens that the template wrote.
        has_literals: whether a content spells out a special token, which must be encoded as plain text.
        notes: how the conversation was changed to fit the template.
    """

    text: str
    responses: tuple[ResponseSpan, ...]
    special_tokens: tuple[Span, ...]
    has_literals: bool
    notes: tuple[str, ...] = ()


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Tools = (),
    template_markers: TemplateMarkers = "text",
) -> Rendered:
    """The conversation as text, with the spans of its responses; see ``fit``. Raises UnusableRow."""
    return fit(tokenizer, messages, tools, template_markers)[1]


def fit(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Tools = (),
    template_markers: TemplateMarkers = "text",
) -> tuple[Sequence[Message], Rendered]:
    """The conversation in the form that the chat template accepts, and as text.

    Args:
        tokenizer: one with a chat template.
        messages: the conversation; its last turn is the assistant's.
        tools: JSON schemas of the tools that the conversation declares.
        template_markers: whether contents with special tokens of the template are refused or taken as plain text.

    Raises:
        UnusableRow: the template refuses the conversation, or changes or leaves out a part of it.
    """
    info = get_template_info(tokenizer, tools)
    if template_markers == "refuse":
        _require_no_markers(messages, info)
    problem = None
    for form, notes in _forms(messages, info):
        try:
            rendered = _render(tokenizer, info, form, tools)
        except UnusableRow as error:
            problem = problem or error
        else:
            return form, replace(rendered, notes=(*notes, *rendered.notes)) if notes else rendered
    assert problem is not None
    raise problem


def _require_no_markers(messages: Sequence[Message], info: TemplateInfo) -> None:
    for message in messages:
        if found := info.turn_markers.search(message.content):
            raise UnusableRow(
                "template_markers",
                f"a content contains {found[0]!r}, which the model's chat template writes itself; give the text "
                "without the template, or set template_markers=text to take it as plain text",
            )


def _forms(messages: Sequence[Message], info: TemplateInfo) -> Iterator[tuple[list[Message], tuple[str, ...]]]:
    """The conversation as it is, then in the forms that stricter templates accept, each with what was changed."""
    form: list[Message] = list(messages)
    notes: tuple[str, ...] = ()
    if not info.supports_system_role and form[0].role == "system":
        form, notes = _system_as_user(form), (SYSTEM_AS_USER,)
    yield form, notes
    if any(message.role == "tool" for message in form):
        form = [message._replace(role="user", fields={}) if message.role == "tool" else message for message in form]
        notes = (*notes, TOOLS_AS_USER)
        yield form, notes
    if any(before.role == after.role == "user" for before, after in pairwise(form)):
        yield _merge_users(form), (*notes, USERS_MERGED)


def _system_as_user(messages: Sequence[Message]) -> list[Message]:
    system, *rest = messages
    if rest and rest[0].role == "user":
        return [rest[0]._replace(content=f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
    return [system._replace(role="user"), *rest]


def _merge_users(messages: Sequence[Message]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role == "user":
            merged[-1] = merged[-1]._replace(content=f"{merged[-1].content}\n\n{message.content}")
        else:
            merged.append(message)
    return merged


def _render(
    tokenizer: PreTrainedTokenizerBase, info: TemplateInfo, messages: Sequence[Message], tools: Tools
) -> Rendered:
    text, generated = apply(tokenizer, info, messages, tools)
    marked = mark_contents(tokenizer, info, messages, tools)
    contents: list[Span] = []
    spans: list[Span | None]
    if info.marks_responses and (assigned := _assign(generated, messages)):
        spans = list(assigned)
    elif any(message.fields or THINKING_END in message.content for message in messages):
        spans = _spans_by_prefix(tokenizer, info, messages, tools, text)
    else:
        contents = locate_contents(marked, text)
        spans = [span for message, span in zip(messages, contents, strict=True) if message.role == "assistant"]
    # A template that states what is learned may state that thinking is not.
    notes = _check_nothing_is_lost(messages, tools, text, spans, must_think=not info.marks_responses)
    has_literals = any(info.special_tokens.search(message.content) for message in messages)
    if has_literals:
        specials = _special_tokens_outside(contents or locate_contents(marked, text), text, info.special_tokens)
    else:
        specials = tuple(match.span() for match in info.special_tokens.finditer(text))
    answers = [message for message in messages if message.role == "assistant"]
    learned = [span for answer, span in zip(answers, spans, strict=True) if answer.train and span is not None]
    responses = [_response_span(text, span, specials) for span in learned]
    last = responses[-1]
    responses[-1] = last._replace(stop=max(last.end, len(text[: last.stop].rstrip())))
    return Rendered(text, tuple(responses), specials, has_literals, notes)


def _assign(generated: Sequence[Span], messages: Sequence[Message]) -> list[Span]:
    """The marked span of each assistant turn; none if the template marks another number of turns than there are."""
    joined: list[Span] = []
    for start, end in generated:
        if joined and joined[-1][1] == start:  # some templates mark the end of the turn separately
            joined[-1] = joined[-1][0], end
        elif end > start:
            joined.append((start, end))
    return joined if len(joined) == sum(message.role == "assistant" for message in messages) else []


def _spans_by_prefix(
    tokenizer: PreTrainedTokenizerBase, info: TemplateInfo, messages: Sequence[Message], tools: Tools, text: str
) -> list[Span | None]:
    """What each assistant turn adds to the text that the model is given before it; None if the turn is not intact.

    A template may leave out the thinking of earlier turns. Such a turn is context only.
    """
    spans: list[Span | None] = []
    for i, message in enumerate(messages):
        if message.role == "assistant":
            before = apply(tokenizer, info, messages[:i], tools, generate=True)[0]
            after = apply(tokenizer, info, messages[: i + 1], tools)[0] if i + 1 < len(messages) else text
            start, end = _common(before, after), len(text[: _common(after, text)].rstrip())
            intact = text.startswith(before[:start]) and _contains(text[start:end], message.content)
            spans.append((start, end) if intact or i + 1 == len(messages) else None)
    return spans


def _common(one: str, other: str) -> int:
    """The number of characters with which both texts begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _check_nothing_is_lost(
    messages: Sequence[Message], tools: Tools, text: str, spans: Sequence[Span | None], *, must_think: bool
) -> tuple[str, ...]:
    """Notes on what the template left out.

    Args:
        messages: the conversation.
        tools: the tools that it declares.
        text: what the template wrote.
        spans: the span of each assistant turn.
        must_think: whether the thinking of the last turn must be in the text.

    Raises:
        UnusableRow: something else was left out or changed.
    """
    notes = set()
    answers = iter(spans)
    for i, message in enumerate(messages):
        if message.role != "assistant":
            if not _contains(text, message.content):
                raise changed()
            continue
        span = next(answers)
        region = text[slice(*span)] if span is not None else text
        if span is None or not _contains(region, message.content):
            thinking, end, answer = message.content.rpartition(THINKING_END)
            if not (end or THINKING_FIELD in message.fields) or not _contains(region, answer):
                raise changed()
            if span is None or not _contains(region, thinking.rpartition(THINKING_START)[2]):
                notes.add(_thinking_left_out(must_think=must_think and i == len(messages) - 1))
        _check_fields(message, region, must_think=must_think and i == len(messages) - 1, notes=notes)
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and not _contains(text, str(function.get("name", ""))):
            raise UnusableRow("tools_left_out", "the chat template has no place for the tools that the row declares")
    return tuple(sorted(notes))


def _check_fields(message: Message, region: str, *, must_think: bool, notes: set[str]) -> None:
    thinking = message.fields.get(THINKING_FIELD)
    if thinking and not _contains(region, thinking):
        notes.add(_thinking_left_out(must_think=must_think))
    for call in message.fields.get("tool_calls", ()):
        if not all(_contains(region, part) for part in _texts(call["function"])):
            raise UnusableRow("tool_calls_left_out", "the chat template has no place for tool calls")


def _thinking_left_out(*, must_think: bool) -> str:
    """The note of a turn whose thinking is not in the text. Raises UnusableRow if it must be."""
    if must_think:
        raise UnusableRow(
            "thinking_left_out",
            "the chat template leaves out the thinking of an answer; remove it, or use a model whose template has a "
            f"place for it (it is read from {THINKING_FIELD!r} and from <think>...</think> in the text)",
        )
    return THINKING_LEFT_OUT


def _texts(value: Any) -> Iterator[str]:
    """All strings in nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _contains(region: str, content: str) -> bool:
    """Whether a content is in the text, as it is or as a JSON string."""
    content = content.strip()
    return content in region or any(json.dumps(content, ensure_ascii=ascii)[1:-1] in region for ascii in (False, True))


def _special_tokens_outside(contents: Sequence[Span], text: str, pattern: re.Pattern[str]) -> tuple[Span, ...]:
    """Spans of the special tokens in the template's own text."""
    edges = [0, *(edge for span in sorted(contents) for edge in span), len(text)]
    template_spans = zip(edges[::2], edges[1::2], strict=True)
    return tuple(match.span() for start, end in template_spans for match in pattern.finditer(text, start, end))


def _response_span(text: str, span: Span, special_tokens: Sequence[Span]) -> ResponseSpan:
    """The response with the special token that ends its turn, whether the span contains that token or not."""
    start, stop = span
    # A space before the content belongs to it: tokenizers make it part of the first token (`[/INST] Yes` -> `▁Yes`).
    start -= text.endswith(" ", 0, start)
    end = len(text[:stop].rstrip())
    ending = next((token for token in special_tokens if token[1] == end and token[0] >= start), None)
    if ending is not None:
        return ResponseSpan(start, ending[0], stop)
    following = next((token for token in special_tokens if token[0] >= stop), None)
    if following is None or text[stop : following[0]].strip():
        return ResponseSpan(start, stop, stop)
    return ResponseSpan(start, stop, following[1])
