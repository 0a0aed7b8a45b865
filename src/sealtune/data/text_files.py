"""Rows of a file, a ``save_to_disk`` folder or a hub dataset, and the place where each row was read."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data import arrow_files, formats
from sealtune.data.arrow_files import LocatedRow

Row = dict[str, Any]

COMPRESSED = frozenset({".gz", ".zip", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".tar", ".tgz"})
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
MAX_FIELD_BYTES = 64 * 2**20
MAX_NESTING = 100
"""Levels of lists and objects in a row, as in Parquet. Python could read deeper rows that it cannot write again."""


def read_rows(config: DatasetConfig) -> Iterator[LocatedRow]:
    """Rows of a dataset.

    Raises:
        UserError: the source is missing or unreadable, or has no rows; or a row is broken, whose line is named.
    """
    empty = True
    try:
        for located in _open(config):
            empty = False
            yield located
    except OSError as error:
        raise UserError(f"{config.path}: cannot be read: {error.strerror or error}") from None
    if empty:
        raise UserError(f"{config.path}: no rows; the file is empty or has only a header")


def _open(config: DatasetConfig) -> Iterator[LocatedRow]:
    path = Path(config.path)
    suffix = path.suffix.lower()
    if path.is_dir():
        return arrow_files.read_saved(path, config.split)
    if path.exists() and suffix in FILE_TYPES:
        return FILE_TYPES[suffix](path)
    if path.exists() and suffix in COMPRESSED:
        raise UserError(f"{path}: compressed files are not read; decompress it first")
    if path.exists():
        raise UserError(f"{path}: unknown file type; known: {', '.join(FILE_TYPES)}")
    if suffix in FILE_TYPES or suffix in COMPRESSED or not HUB_ID.fullmatch(config.path):
        raise UserError(f"{path}: no such file")
    return arrow_files.read_hub(config)


def _read_json_lines(path: Path) -> Iterator[LocatedRow]:
    with path.open("rb") as lines:  # binary: in text mode \r would end a line too
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if content.strip():
                yield where, _object(_parse(_decode(content, where), where, "fix or delete the line"), where)


def _read_json(path: Path) -> Iterator[LocatedRow]:
    content = _decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), str(path))
    if not content.strip():
        return iter(())
    try:
        parsed = _parse(content, str(path), "fix the file")
    except UserError:
        if _is_json_lines(content):
            return _read_json_lines(path)
        raise
    located = ((f"{path}, row {number}", item) for number, item in enumerate(_items(parsed, path), 1))
    return ((where, _object(item, where)) for where, item in located)


def _is_json_lines(content: str) -> bool:
    """Whether the first line that is not blank is a JSON object."""
    first = next(line for line in content.split("\n") if line.strip())
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _items(parsed: Any, path: Path) -> list[Any]:
    """The rows of a parsed file: a list, the only list in an object, or an object that is itself a row."""
    if isinstance(parsed, list):
        return parsed
    if isinstance(parsed, dict) and formats.matching(parsed):
        return [parsed]
    lists = [value for value in parsed.values() if isinstance(value, list)] if isinstance(parsed, dict) else []
    if len(lists) != 1:
        raise UserError(f"{path}: neither a list of objects nor an object that contains one")
    return list(lists[0])


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = where if ", line" in where else f"{where}, line {line}"
        raise UserError(
            f"{place}: not UTF-8 text (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        ) from None


def _parse(content: str, where: str, remedy: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if ", line" in where else f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: not valid JSON ({error.msg} at {place}); {remedy}") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply; {remedy}") from None
    except ValueError as error:  # a number of more than 4300 digits
        raise UserError(f"{where}: not valid JSON ({error}); {remedy}") from None


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a row must be an object, not a {type(value).__name__}")
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


def _read_csv(path: Path, delimiter: str = ",") -> Iterator[LocatedRow]:
    csv.field_size_limit(MAX_FIELD_BYTES)
    with path.open("rb") as lines:
        # strict: otherwise an unclosed quote would turn the rest of the file into one field
        table = csv.reader(_text_lines(lines, path), delimiter=delimiter, strict=True)
        try:
            header = _check_header(next(table, []), path)
            for fields in table:
                if fields:
                    where = f"{path}, line {table.line_num}"
                    yield where, _to_row(header, fields, where)
        except csv.Error as error:
            raise UserError(f"{path}, line {table.line_num}: not valid CSV ({error}); fix the line") from None


def _read_tsv(path: Path) -> Iterator[LocatedRow]:
    return _read_csv(path, delimiter="\t")


def _text_lines(lines: Iterator[bytes], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if b"\0" in line:
            raise UserError(f"{where}: a NUL byte; save the file as UTF-8 text")
        yield _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where)


def _check_header(header: list[str], path: Path) -> list[str]:
    for number, name in enumerate(header, 1):
        if not name.strip():
            raise UserError(f"{path}: column {number} has no name (pandas: write with index=False)")
        if name in header[: number - 1]:
            raise UserError(f"{path}: two columns are named {name!r}")
    return header


def _to_row(header: list[str], fields: list[str], where: str) -> Row:
    if len(fields) > len(header):
        raise UserError(
            f"{where}: {len(fields)} fields, but the header has {len(header)}; quote fields that contain commas"
        )
    return dict(zip(header, fields, strict=False))


FILE_TYPES: dict[str, Callable[[Path], Iterator[LocatedRow]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": arrow_files.read_parquet,
    ".arrow": arrow_files.read_arrow,
}
