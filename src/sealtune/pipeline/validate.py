"""What is read back from a run folder is checked before it is used: it may be damaged, or come from somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from sealtune.core.errors import UserError
from sealtune.core.string_array import StringArray
from sealtune.core.types import Scores

Record = TypeVar("Record")

NUMBERS = ("seconds", "rows", "tokens", "peak_memory_bytes", "threshold")
"""Facts of a stage in the manifest that later stages count on."""


def manifest(content: Any, path: Path) -> dict[str, Any]:
    """The manifest, if it has the form that the stages give it. Raises UserError."""
    stages = content.get("stages", {}) if isinstance(content, dict) else None
    config = content.get("config", {}) if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not isinstance(config, dict) or not all(map(_is_entry, stages.values())):
        raise UserError(f"{path}: not a manifest of sealtune; delete it and run all stages again")
    return dict(content)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("inputs"), dict):
        return False
    outputs = entry.get("outputs")
    if not isinstance(outputs, dict) or not all(isinstance(digest, str) for digest in outputs.values()):
        return False
    facts = [entry[name] for name in NUMBERS if entry.get(name) is not None]
    return all(isinstance(fact, (int, float)) and not isinstance(fact, bool) for fact in facts)


def records(kind: type[Record], rows: list[dict[str, Any]], path: Path) -> list[Record]:
    """The rows as records of this kind. Raises UserError that names the first row which is none."""
    check = TypeAdapter(kind)
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(check.validate_python(row))
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"]))
            raise UserError(f"{path}, line {number}: {place}: {fault['msg']}; run the stage again") from None
    return found


def ids(content: Any, path: Path) -> StringArray:
    """A list of ids. Raises UserError."""
    if isinstance(content, list) and all(isinstance(row_id, str) for row_id in content):
        return StringArray.of(content)
    raise UserError(f"{path}: not a list of ids; select again")


def scores(table: Any, names: Mapping[str, str], path: Path) -> Scores:
    """A ranking from the table of its file; ``names``: column -> field of Scores. Raises UserError."""
    texts = {field: column for column, field in names.items() if field in ("ids", "source")}
    try:
        if any(table[column].null_count or not _is_text(table[column].type) for column in texts.values()):
            raise ValueError("an id or source is not text")
        columns = {field: StringArray.from_column(table[column]) for field, column in texts.items()}
        if pc.count_distinct(columns["ids"].decoded()).as_py() != len(columns["ids"]):
            raise ValueError("two rows share an id")
        numbers = {f: np.asarray(table[c], np.float64) for c, f in names.items() if f not in texts}
        if not np.isfinite(numbers["score"]).all() or not np.isfinite(numbers["visits"]).all():
            raise ValueError("a score is not a number")
    except (ValueError, TypeError, KeyError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a file of scores ({error}); rank again") from None
    optional = {f: None if np.isnan(numbers[f]).all() else numbers[f] for f in ("standard_error", "probe_logit")}
    visits = numbers["visits"].astype(np.int64)
    return Scores(**columns, **numbers | optional | {"visits": visits})  # type: ignore[arg-type]


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
