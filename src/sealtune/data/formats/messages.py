"""``messages``: a list of objects with ``role`` and ``content``, as in chat APIs and TRL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import UnusableRow, conversation, turns

COLUMNS = frozenset({"messages"})


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row. Raises UnusableRow."""
    if not isinstance(row["messages"], list):
        raise UnusableRow("not_a_message", "messages is not a list")
    return conversation(turns(row["messages"], "user"))
