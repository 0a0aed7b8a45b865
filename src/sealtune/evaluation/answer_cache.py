"""Replies of paid servers, stored in the run folder as they arrive, so that a killed run pays for nothing twice.

This file is not written atomically: lines are appended, and a line that a crash truncated is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sealtune.core.errors import RunError


class AnswerCache:
    """Records by key, in a JSON Lines file that is only appended to. The last record of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, Mapping[str, Any]] = {}
        raw = path.read_bytes() if path.exists() else b""
        for line in raw.split(b"\n"):
            self._read(line)
        self._ends_inside_line = bool(raw) and not raw.endswith(b"\n")

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        return self._records[key]

    def records(self) -> Iterable[Mapping[str, Any]]:
        """All records."""
        return self._records.values()

    def __setitem__(self, key: str, record: Mapping[str, Any]) -> None:
        """Store a record. Raises RunError if it cannot be written."""
        line = json.dumps({"key": key, **record}).encode("ascii") + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:  # one write, so that two runs cannot mix their lines
                file.write(b"\n" + line if self._ends_inside_line else line)
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}); earlier answers are kept") from None
        self._ends_inside_line = False
        self._records[key] = record

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            self._records[record.pop("key")] = record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # blank, or broken by a crash
