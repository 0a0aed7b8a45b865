"""Checks what is read from a run folder: it may be damaged, or come from somebody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def records(kind: type[Record], rows: list[dict[str, Any]], path: Path) -> list[Record]:
    """The rows as records of this kind. Raises UserError that names the first invalid row."""
    adapter = TypeAdapter(kind)
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(adapter.validate_python(row))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UserError(f"{path}, line {number}: {field}: {first['msg']}; run the stage again") from None
    return found


def ids(content: Any, path: Path) -> StringArray:
    """A list of ids. Raises UserError if it is not one."""
    if isinstance(content, list) and all(isinstance(row_id, str) for row_id in content):
        return StringArray.of(content)
    raise UserError(f"{path}: not a list of ids; select again")


def scores(table: Any, fields: Mapping[str, str], path: Path) -> Scores:
    """The scores in a table read from ``path``; ``fields`` maps its columns to fields of Scores. Raises UserError."""
    try:
        texts, numbers = _texts(table, fields), _numbers(table, fields)
    except (ValueError, TypeError, KeyError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a file of scores ({error}); rank again") from None
    optional = {f: None if np.isnan(numbers[f]).all() else numbers[f] for f in ("standard_error", "probe_logit")}
    visits = numbers["visits"].astype(np.int64)
    return Scores(**texts, **numbers | optional | {"visits": visits})  # type: ignore[arg-type]


def _texts(table: Any, fields: Mapping[str, str]) -> dict[str, StringArray]:
    columns = {field: table[column] for column, field in fields.items() if field in ("ids", "source")}
    if any(column.null_count or not _is_text(column.type) for column in columns.values()):
        raise ValueError("an id or source is not text")
    texts = {field: StringArray.from_column(column) for field, column in columns.items()}
    if pc.count_distinct(texts["ids"].decoded()).as_py() != len(texts["ids"]):
        raise ValueError("two rows share an id")
    return texts


def _numbers(table: Any, fields: Mapping[str, str]) -> dict[str, Any]:
    numbers = {f: np.asarray(table[c], np.float64) for c, f in fields.items() if f not in ("ids", "source")}
    if not np.isfinite(numbers["score"]).all() or not np.isfinite(numbers["visits"]).all():
        raise ValueError("a score is not a finite number")
    return numbers


def score_details(table: Any, columns: Sequence[str], part: str, place: tuple[str, str], path: Path) -> dict[str, Any]:
    """Summands of the scores, whose columns begin with ``part``, and the places on a map. Raises UserError."""
    try:
        found = {name: np.asarray(table[name], np.float64) for name in columns}
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a file of scores ({error}); rank again") from None
    places = np.stack([found[name] for name in place], 1) if set(place) <= found.keys() else None
    parts = {name.removeprefix(part): values for name, values in found.items() if name.startswith(part)}
    return {"parts": parts, "places": places}


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
