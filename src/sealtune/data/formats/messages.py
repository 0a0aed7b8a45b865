"""``messages``: a list of objects with ``role`` and ``content``, as in chat APIs and TRL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import conversation
from sealtune.data.turns import list_of_turns

COLUMNS = frozenset({"messages"})


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row. Raises UnusableRow."""
    return conversation(list_of_turns(row["messages"], "messages"))
