"""manifest.json: the provenance of a run, and the inputs, output hashes and cost of each finished stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictFloat, StrictInt, ValidationError

from sealtune.core.errors import UserError

Number = StrictInt | StrictFloat


class StageEntry(BaseModel):
    """A finished stage.

    Attributes:
        inputs: everything that its result depends on.
        outputs: SHA-256 of each file that it wrote, by name in the run folder.
        finished: when, in ISO 8601.
        threshold: lowest score that was kept (select only).
    """

    model_config = ConfigDict(extra="allow", strict=True)

    inputs: dict[str, Any]
    outputs: dict[str, str]
    finished: str | None = None
    seconds: Number | None = None
    peak_memory_bytes: Number | None = None
    rows: Number | None = None
    tokens: Number | None = None
    threshold: Number | None = None

    def facts(self) -> dict[str, Any]:
        """Cost and other facts, without inputs, outputs and date."""
        return {name: value for name, value in self.as_dict().items() if name not in ("inputs", "outputs", "finished")}

    def as_dict(self) -> dict[str, Any]:
        """The entry as it is stored, unknown keys included."""
        return {name: value for name, value in self if name in self.model_fields_set}


class Manifest(BaseModel):
    """A manifest. Further keys are provenance: versions, machine, seed and so on."""

    model_config = ConfigDict(extra="allow", strict=True)

    config: dict[str, Any] = {}
    stages: dict[str, StageEntry] = {}

    def has_output(self, stage: str, name: str) -> bool:
        """Whether a stage was finished and wrote this file."""
        return stage in self.stages and name in self.stages[stage].outputs

    def as_dict(self) -> dict[str, Any]:
        """The manifest as it is stored, unknown keys included."""
        stages = {name: entry.as_dict() for name, entry in self.stages.items()}
        return {**(self.model_extra or {}), "config": self.config, "stages": stages}

    def updated(self, provenance: Mapping[str, Any], stages: Mapping[str, StageEntry]) -> Manifest:
        """A copy with these stages and this provenance; keys that are not in ``provenance`` stay."""
        return Manifest.model_validate(self.as_dict() | dict(provenance) | {"stages": dict(stages)})


def parse_manifest(content: Any, path: Path) -> Manifest:
    """The manifest with this JSON content. Raises UserError if it is not one."""
    try:
        return Manifest.model_validate(content)
    except ValidationError:
        raise UserError(f"{path}: not a manifest of sealtune; delete it and run all stages again") from None
