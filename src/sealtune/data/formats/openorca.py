"""OpenOrca: ``system_prompt``, ``question`` and ``response``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import conversation

COLUMNS = frozenset({"system_prompt", "question", "response"})


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row; the system prompt may be missing or blank. Raises UnusableRow."""
    system = row["system_prompt"]
    opening = [("system", "" if system is None else system)]
    return conversation([*opening, ("user", row["question"]), ("assistant", row["response"])])
