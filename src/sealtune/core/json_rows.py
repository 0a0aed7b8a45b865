"""Rows as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class JsonRow(Mapping[str, Any]):
    """A row stored as a line of JSON: parsed on first access, and written back unchanged."""

    __slots__ = ("_columns", "line")

    def __init__(self, line: bytes) -> None:
        self.line = line
        self._columns: dict[str, Any] | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The parsed row."""
        if self._columns is None:
            self._columns = json.loads(self.line)
        return self._columns

    def __getitem__(self, column: str) -> Any:
        return self.columns[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __repr__(self) -> str:
        return repr(self.columns)


def to_json_line(row: Mapping[str, Any]) -> bytes:
    """The row as a line of JSON. Lone surrogates, which UTF-8 cannot encode, stay escapes."""
    if isinstance(row, JsonRow):
        return row.line
    try:
        return (_encode(row) + "\n").encode("utf-8")
    except (ValueError, TypeError):  # a lone surrogate, NaN, or a nested mapping that is not a dict
        finite = nan_to_null(row)
    try:
        return (json.dumps(finite, ensure_ascii=False, default=to_json_type) + "\n").encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(finite, default=to_json_type) + "\n").encode("ascii")


def nan_to_null(value: Any) -> Any:
    """The value with None in place of NaN and infinities, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json_type(value: Any) -> Any:
    """Convert a value of a type that JSON lacks; for ``json.dumps(default=...)``."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _to_json_type(value: Any) -> Any:
    if isinstance(value, Mapping):
        raise TypeError("a mapping that is not a dict")
    return to_json_type(value)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_to_json_type).encode
