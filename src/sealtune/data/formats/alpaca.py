"""Alpaca: ``instruction`` and ``output``; optional ``input`` and ``system``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.types import Message
from sealtune.data.formats import conversation, text

COLUMNS = frozenset({"instruction", "output"})


def read(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row; the input follows the instruction after a blank line. Raises UnusableRow."""
    instruction, extra = text(row["instruction"]), _optional(row, "input")
    prompt = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    return conversation([("system", _optional(row, "system")), ("user", prompt), ("assistant", row["output"])])


def _optional(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else text(value)
