"""Answers and measurements of a model, stored before they are judged, so that a failed judge does not cost them.

The names of the files carry a hash of everything that the answers depend on: another model, other prompts or settings
have other files. Files of earlier answers are deleted when new ones are stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sealtune.core.errors import UserError
from sealtune.core.json_rows import to_json_type
from sealtune.core.types import Prompt, Response
from sealtune.pipeline.folder import RunFolder


class StoredAnswers:
    """What is stored of one model, in ``evaluate/answers_NAME_HASH.jsonl`` and ``evaluate/measured_NAME_HASH.json``."""

    def __init__(self, folder: RunFolder, name: str, prompts: Sequence[Prompt], depends_on: Mapping[str, Any]) -> None:
        """``depends_on`` has everything but the prompts that the answers and measurements depend on."""
        asked = [(p.id, p.set, p.kind, p.prompt) for p in prompts]
        content = json.dumps([asked, depends_on], sort_keys=True, default=to_json_type)
        self.folder, self.name, self.prompts = folder, name, prompts
        self.key = hashlib.sha256(content.encode("ascii")).hexdigest()[:16]

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
        self.folder.write_jsonl(file, map(dataclasses.asdict, responses))
        self._forget_others(file)

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
        self._forget_others(file)

    def _file(self, what: str, suffix: str) -> str:
        return f"evaluate/{what}_{self.name}_{self.key}.{suffix}"

    def _forget_others(self, file: str) -> None:
        """Delete the answers or measurements of an earlier model or of other settings."""
        kept = self.folder.path(file)
        for path in kept.parent.glob(kept.name.replace(self.key, "*")):
            if path != kept:
                path.unlink(missing_ok=True)
