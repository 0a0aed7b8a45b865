"""Answers that were paid for, kept in the run's folder as they arrive: a run that was killed pays nothing twice.

The one file that does not appear whole or not at all: it grows by whole lines, and a line that a crash left broken is
not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sealtune.core.errors import RunError


class AnswerCache:
    """Records by key, in a file of JSON lines that is only ever appended to. The last of equal keys counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, Mapping[str, Any]] = {}
        raw = path.read_bytes() if path.exists() else b""
        for line in raw.split(b"\n"):
            self._read(line)
        self._torn = bool(raw) and not raw.endswith(b"\n")

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        return self._records[key]

    def __setitem__(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a record. Raises RunError where the disk does not take it."""
        line = json.dumps({"key": key, **record}).encode("ascii") + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:  # one write: two runs cannot mix their lines
                file.write(b"\n" + line if self._torn else line)
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written to ({error.strerror}); what it holds is kept") from None
        self._torn = False
        self._records[key] = record

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            self._records[record.pop("key")] = record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # blank, or broken by a crash
