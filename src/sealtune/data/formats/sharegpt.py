"""ShareGPT: ``conversations``, a list of objects with ``from`` and ``value`` (or ``role`` and ``content``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import UnusableRow, conversation

COLUMNS = frozenset({"conversations"})

SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "observation": "tool",
}


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row. Raises UnusableRow."""
    items = row["conversations"]
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise UnusableRow("not_a_message", "conversations is not a list of objects")
    return conversation(_turn(item) for item in items)


def _turn(item: Mapping[str, Any]) -> tuple[Any, Any]:
    speaker, content = ("from", "value") if item.get("from") is not None else ("role", "content")
    role = item.get(speaker)
    return SPEAKERS.get(str(role), role), item.get(content)
