"""``prompt`` and ``completion``, as in TRL: two texts, or two lists of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import conversation, turns

COLUMNS = frozenset({"prompt", "completion"})


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row. Raises UnusableRow."""
    return conversation(turns(row["prompt"], "user") + turns(row["completion"], "assistant"))
