"""Alpaca: ``instruction`` and ``output``; optional ``input``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import conversation, text

COLUMNS = frozenset({"instruction", "output"})
OPTIONAL = frozenset({"input"})


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row; the input follows the instruction after a blank line. Raises UnusableRow."""
    instruction, extra = text(row["instruction"]), row.get("input")
    prompt = f"{instruction}\n\n{text(extra)}" if extra is not None and text(extra).strip() else instruction
    return conversation([("user", prompt), ("assistant", row["output"])])
