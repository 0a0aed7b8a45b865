"""Rows of JSON files: one object per line, or any other arrangement of ``json_orientations``."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from sealtune.core.errors import UserError
from sealtune.data.arrow_files import LocatedRow
from sealtune.data.data_file import DataFile, decode
from sealtune.data.json_orientations import require_split, rows_of_document, rows_of_list

logger = logging.getLogger(__name__)

Row = dict[str, Any]

MAX_NESTING = 100
"""Levels of lists and objects in a row, as in Parquet. Python could read deeper rows that it cannot write again."""

_BLANKS = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def read_json(file: DataFile) -> Iterator[LocatedRow]:
    """Rows of a .jsonl, .ndjson or .json file.

    If the first line is a complete JSON value and another line follows, the file is read line by line. Otherwise it is
    one document, or several values one after another, and is read whole.

    Raises:
        UserError: it is not JSON, or not rows; names the line or row.
    """
    lines = enumerate(file.lines(), 1)
    first = list(islice(((number, line) for number, line in lines if line.strip()), 2))
    if len(first) == 2 and _is_complete(first[0][1]):
        yield from _by_line(file, chain(first, lines))
    elif first:
        yield from _by_document(file, first, (line for _, line in lines))


def _is_complete(line: bytes) -> bool:
    """Whether a line is an object or a list."""
    try:
        return isinstance(json.loads(line.decode()), dict | list)
    except (ValueError, RecursionError):
        return False


def _by_line(file: DataFile, lines: Iterator[tuple[int, bytes]]) -> Iterator[LocatedRow]:
    require_split(file)
    path = file.path
    for number, line in lines:
        if line.isspace():
            continue
        where = f"{path}, line {number}"
        value = _parse(decode(line, where), where)
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            yield from ((where, _to_row(item, where)) for item in rows_of_list(value))
        else:
            yield where, _to_row(value, where)


def _by_document(file: DataFile, first: list[tuple[int, bytes]], rest: Iterator[bytes]) -> Iterator[LocatedRow]:
    start, line = first[0]
    content = decode(b"".join(chain((line for _, line in first), rest)), str(file.path), start)
    try:
        values = list(_values(content, file, start))
    except UserError:
        if file.type != ".json" and not _begins_document(line):  # a broken line, rather than a broken document
            where = f"{file.path}, line {start}"
            _parse(decode(line, where), where)
        raise
    for number, item in enumerate(_items(values, file), 1):
        where = f"{file.path}, row {number}"
        yield where, _to_row(item, where)


def _items(values: list[Any], file: DataFile) -> Iterator[Any]:
    """The rows of a file that consists of these values, one after another."""
    if len(values) == 1:
        yield from rows_of_document(values[0], file)
        return
    require_split(file)
    logger.info("%s: %s JSON values one after another are read as one list", file.path, f"{len(values):,}")
    for value in values:
        yield from rows_of_list(value) if isinstance(value, list) else [value]


def _values(content: str, file: DataFile, start: int) -> Iterator[Any]:
    """The JSON values that a text consists of. Raises UserError."""
    place = _skip_blanks(content, 0)
    while place < len(content):
        try:
            value, end = _DECODER.raw_decode(content, place)
        except json.JSONDecodeError as error:
            _require_no_python(content, str(file.path))
            at = f"line {error.lineno + start - 1}, column {error.colno}"
            raise UserError(f"{file.path}: not valid JSON ({error.msg} at {at}); fix the file") from None
        except RecursionError:
            raise UserError(f"{file.path}: nested too deeply; fix the file") from None
        except ValueError as error:  # a number of more than 4300 digits
            raise UserError(f"{file.path}: not valid JSON ({error}); fix the file") from None
        yield value
        place = _skip_blanks(content, end)


def _skip_blanks(content: str, place: int) -> int:
    found = _BLANKS.match(content, place)
    return found.end() if found else place


def _require_no_python(content: str, where: str) -> None:
    """Raise UserError if rows were printed by Python. They are never evaluated."""
    if re.match(r"\s*(\[\s*)?\{\s*'", content):
        raise UserError(f"{where}: rows as Python prints them, which is not JSON; write them with json.dumps")


def _begins_document(line: bytes) -> bool:
    """Whether a document of several lines could begin with this one."""
    return line.lstrip()[:1] == b"[" or line.strip() == b"{"


def _parse(content: str, where: str) -> Any:
    """The value of a line. Raises UserError."""
    remedy = "fix or delete the line"
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        _require_no_python(content, where)
        raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno}); {remedy}") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply; {remedy}") from None
    except ValueError as error:  # a number of more than 4300 digits
        raise UserError(f"{where}: not valid JSON ({error}); {remedy}") from None


def _to_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        hint = "; write the object itself instead of JSON within a text" if isinstance(value, str) else ""
        raise UserError(f"{where}: a row must be an object, not a {type(value).__name__}{hint}")
    if _is_too_deep(value):
        raise UserError(f"{where}: nested too deeply (more than {MAX_NESTING} levels); fix or delete the row")
    return value


def _is_too_deep(row: Row) -> bool:
    level: list[Any] = [row]
    for _ in range(MAX_NESTING):
        parts = (part for value in level for part in (value.values() if isinstance(value, dict) else value))
        level = [part for part in parts if isinstance(part, (dict, list))]
        if not level:
            return False
    return True
