"""Rows as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Line(Mapping[str, Any]):
    """A row as the line of a file: it is parsed when a value of it is asked for, and written as it stands."""

    __slots__ = ("_values", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._values: dict[str, Any] | None = None

    @property
    def values_by_column(self) -> dict[str, Any]:
        """The row, parsed."""
        if self._values is None:
            self._values = json.loads(self.text)
        return self._values

    def __getitem__(self, column: str) -> Any:
        return self.values_by_column[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_column)

    def __len__(self) -> int:
        return len(self.values_by_column)

    def __repr__(self) -> str:
        return repr(self.values_by_column)


def json_line(row: Mapping[str, Any]) -> bytes:
    """The row as JSON. Half of a surrogate pair, which UTF-8 cannot hold, stays the escape that it was."""
    if isinstance(row, Line):
        return row.text
    try:
        return (_encode(row) + "\n").encode("utf-8")
    except (ValueError, TypeError):  # a surrogate, NaN, or a mapping that is no dictionary
        plain_row = without_nan(row)
    try:
        return (json.dumps(plain_row, ensure_ascii=False, default=plain) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(plain_row, default=plain) + "\n").encode("ascii")


def without_nan(value: Any) -> Any:
    """The value with null in place of NaN and infinities, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any) -> Any:
    """A value that JSON lacks, as one that it has."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        raise TypeError("a mapping that is no dictionary")
    return plain(value)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain_value).encode
