"""True labels as people write them: numbers, words, or probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.core.errors import UserError

UNSAFE = frozenset({"1", "1.0", "true", "yes", "unsafe", "harmful", "toxic", "bad", "malicious"})
SAFE = frozenset({"0", "0.0", "false", "no", "safe", "harmless", "benign", "good", "non-toxic", "not harmful"})
"""Words in any case; booleans and numbers read like their names."""


def read_label(row: Mapping[str, Any], column: str, row_id: str, threshold: float | None) -> int:
    """The label of a row, 1 = unsafe.

    Args:
        row: The row.
        column: Its label column.
        row_id: Its id, for the message.
        threshold: The lowest probability that counts as unsafe; None if no label may be one.

    Raises:
        UserError: the column is missing, or its value is no label; nothing is rounded.
    """
    if column not in row:
        raise UserError(f"label_column: row {row_id} has no column {column!r}; columns: {', '.join(map(str, row))}")
    value = row[column]
    word = str(value).strip().lower()
    if threshold is not None and (probability := _probability(value)) is not None:
        return int(probability >= threshold)
    if word in UNSAFE:
        return 1
    if word in SAFE:
        return 0
    place = f"label_column: row {row_id} has {str(value)[:40]!r} in {column!r}"
    if _probability(value) is not None:
        raise UserError(f"{place}, a probability; say which ones are unsafe, as in label_threshold=0.5")
    raise UserError(f"{place}; 0 (safe) or 1 (unsafe) is needed, or true/false, safe/unsafe, harmless/harmful")


def _probability(value: Any) -> float | None:
    """The value as a number from 0 to 1; None if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number <= 1 else None
