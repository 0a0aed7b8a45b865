"""Answers and measurements of a model, stored before they are judged, so that a failed judge does not cost them.

The names of the files carry a hash of everything that the answers depend on: another model, other prompts or settings
have other files. Files of earlier answers are deleted when new ones are stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from sealtune.core.errors import UserError
from sealtune.core.json_rows import to_json_type
from sealtune.core.types import Prompt, Response
from sealtune.pipeline.folder import RunFolder

Record = TypeVar("Record")


class StoredRecords(Generic[Record]):
    """Records of one kind about a model, in ``evaluate/WHAT_NAME_HASH.jsonl``."""

    def __init__(
        self, folder: RunFolder, what: str, name: str, kind: type[Record], ids: Sequence[str], depends_on: Any
    ) -> None:
        """``ids``: those of the records, in order; ``depends_on`` has everything else that they depend on."""
        self.folder, self.kind, self.ids = folder, kind, list(ids)
        self.file = f"evaluate/{what}_{name}_{_hash([self.ids, depends_on])}.jsonl"
        self._others = f"{what}_{name}_*.jsonl"

    def read(self) -> list[Record] | None:
        """The records; None if they are not stored, or the file is damaged."""
        if not self.folder.path(self.file).exists():
            return None
        try:
            found = self.folder.read_records(self.file, self.kind)
        except UserError:
            return None
        return found if [getattr(record, "id", None) for record in found] == self.ids else None

    def write(self, records: Sequence[Record]) -> None:
        """Write the records, and delete those of an earlier model or of other settings."""
        self.folder.write_jsonl(self.file, map(_columns, records))
        _forget_others(self.folder, self.file, self._others)


class StoredAnswers:
    """What is stored of one model, in ``evaluate/answers_NAME_HASH.jsonl`` and ``evaluate/measured_NAME_HASH.json``."""

    def __init__(self, folder: RunFolder, name: str, prompts: Sequence[Prompt], depends_on: Mapping[str, Any]) -> None:
        """``depends_on`` has everything but the prompts that the answers and measurements depend on."""
        asked = [(p.id, p.set, p.kind, p.prompt) for p in prompts]
        self.folder, self.name, self.prompts = folder, name, prompts
        self.key = _hash([asked, depends_on])

    @property
    def complete(self) -> bool:
        """Whether the model is not needed any more."""
        return self.responses() is not None and self.measured() is not None

    def responses(self) -> list[Response] | None:
        """The answers, one per prompt, in order; None if they are not stored, or the file is damaged."""
        file = self._file("answers", "jsonl")
        if not self.folder.path(file).exists():
            return None
        try:
            found = self.folder.read_records(file, Response)
        except UserError:
            return None
        return found if [r.id for r in found] == [p.id for p in self.prompts] else None

    def store_responses(self, responses: Sequence[Response]) -> None:
        """Write the answers."""
        file = self._file("answers", "jsonl")
        self.folder.write_jsonl(file, map(_columns, responses))
        _forget_others(self.folder, file, Path(file).name.replace(self.key, "*"))

    def measured(self) -> list[dict[str, Any]] | None:
        """Table rows of the losses and tasks; None if they are not stored, or the file is damaged."""
        file = self._file("measured", "json")
        if not self.folder.path(file).exists():
            return None
        try:
            found = self.folder.read_json(file)
        except UserError:
            return None
        return found if isinstance(found, list) and all(isinstance(row, dict) for row in found) else None

    def store_measured(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write table rows."""
        file = self._file("measured", "json")
        self.folder.write_json(file, list(rows))
        _forget_others(self.folder, file, Path(file).name.replace(self.key, "*"))

    def _file(self, what: str, suffix: str) -> str:
        return f"evaluate/{what}_{self.name}_{self.key}.{suffix}"


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=to_json_type)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def _forget_others(folder: RunFolder, file: str, pattern: str) -> None:
    """Delete the files that match the pattern, but for this one."""
    kept = folder.path(file)
    for path in kept.parent.glob(pattern):
        if path != kept:
            path.unlink(missing_ok=True)


def _columns(record: Any) -> dict[str, Any]:
    """The fields of a record. Unlike ``dataclasses.asdict``, no list of tens of thousands of numbers is copied."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
