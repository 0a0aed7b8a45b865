"""Where each content is in the text that a chat template writes.

The template is applied once more, with sentinel characters around every content. The sentinels separate the template's
own text from contents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from sealtune.core.types import Message
from sealtune.data.chat_template import Span, TemplateInfo, Tools, apply
from sealtune.data.turns import UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTINELS = range(0xF0000, 0xFFFFE)
"""A private-use plane of Unicode."""


class Marked(NamedTuple):
    """What the template writes of contents between sentinels, and the pair of each message.

    An assistant turn that only calls tools has no content, and the pair ``""``.
    """

    text: str
    pairs: list[str]


def mark_contents(
    tokenizer: PreTrainedTokenizerBase, info: TemplateInfo, messages: Sequence[Message], tools: Tools
) -> Marked:
    """Apply the template to the messages with sentinels around every content.

    Raises:
        UnusableRow: the template refuses the conversation, or leaves out a content.
    """
    sentinels = _unused_sentinels("".join(message.content for message in messages), 2 * len(messages))
    pairs = [
        "" if message.role == "assistant" and not message.content else sentinels[2 * i : 2 * i + 2]
        for i, message in enumerate(messages)
    ]
    between = [
        message._replace(content=f"{pair[:1]}{message.content}{pair[1:]}")
        for message, pair in zip(messages, pairs, strict=True)
    ]
    text = apply(tokenizer, info, between, tools)[0]
    if any(pair[1:] not in text for pair in pairs):  # the first one is in the thinking, which templates may leave out
        raise changed()
    return Marked(text, pairs)


def locate_contents(marked: Marked, text: str) -> list[Span]:
    """The span of each message's content in ``text``. Raises UnusableRow if the template changes a content."""
    if "" in marked.pairs:
        raise changed()
    return _align(marked.text, text, marked.pairs)


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
        raise changed()
    turn_of = {pair: turn for turn, pair in enumerate(pairs)}
    spans: dict[int, Span] = {}
    position = len(before)
    for opening, content, closing, after in records:
        turn = turn_of.pop(opening + closing, None)
        end = _find_end(content, after, text, position)
        if turn is None or end is None:
            raise changed()
        spans[turn] = (position, end)
        position = end + len(after)
    if position != len(text):
        raise changed()
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


def changed() -> UnusableRow:
    """The reason of a row whose content the template changes."""
    return UnusableRow("template_changes_text", "the chat template changes or leaves out a content")
