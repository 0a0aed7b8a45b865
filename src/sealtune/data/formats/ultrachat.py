"""UltraChat: ``data``, a list of texts; the user's and the assistant's turns alternate."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import UnusableRow, conversation

COLUMNS = frozenset({"data"})


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row. Raises UnusableRow."""
    texts = row["data"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UnusableRow("not_a_message", "data is not a list of texts")
    return conversation(zip(cycle(("user", "assistant")), texts, strict=False))
