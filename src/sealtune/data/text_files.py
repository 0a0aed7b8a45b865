"""Rows of a file, a ``save_to_disk`` folder or a hub data set, each with the place it was read from."""

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

Row = dict[str, Any]
PlacedRow = tuple[str, Row]

COMPRESSED = frozenset({".gz", ".zip", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".tar", ".tgz"})
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
FIELD_LIMIT = 64 * 2**20
DEEPEST = 100
"""Levels of lists and objects in a row, as in Parquet. At Python's own limit, what is read may fail to be written."""


def read_rows(config: DatasetConfig) -> Iterator[PlacedRow]:
    """Pairs of a place such as ``candidates.jsonl, line 7`` and the row as it stands there.

    Raises:
        UserError: a missing or unreadable source, a broken row (named by its line), or no row at all.
    """
    empty = True
    try:
        for placed in _open(config):
            empty = False
            yield placed
    except OSError as error:
        raise UserError(f"{config.path}: cannot be read: {error.strerror or error}") from None
    if empty:
        raise UserError(f"{config.path}: no rows; the file is empty, or holds only a header")


def _open(config: DatasetConfig) -> Iterator[PlacedRow]:
    path = Path(config.path)
    suffix = path.suffix.lower()
    if path.is_dir():
        return arrow_files.read_saved(path, config.split)
    if path.exists() and suffix in FILE_TYPES:
        return FILE_TYPES[suffix](path)
    if path.exists() and suffix in COMPRESSED:
        raise UserError(f"{path}: compressed files are not read; unpack it first")
    if path.exists():
        raise UserError(f"{path}: no known file type; known: {', '.join(FILE_TYPES)}")
    if suffix in FILE_TYPES or suffix in COMPRESSED or not HUB_ID.fullmatch(config.path):
        raise UserError(f"{path}: no such file")
    return arrow_files.read_hub(config)


def _read_json_lines(path: Path) -> Iterator[PlacedRow]:
    with path.open("rb") as lines:  # in binary a line ends at \n alone; text may hold U+2028 and its kin
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if content.strip():
                yield where, _object(_parse(_decode(content, where), where, "fix or delete the line"), where)


def _read_json(path: Path) -> Iterator[PlacedRow]:
    content = _decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), str(path))
    if not content.strip():
        return iter(())
    try:
        whole = _parse(content, str(path), "mend the file")
    except UserError:
        if _is_json_lines(content):
            return _read_json_lines(path)
        raise
    items = enumerate(_items(whole, path), 1)
    return ((where, _object(item, where)) for number, item in items for where in [f"{path}, row {number}"])


def _is_json_lines(content: str) -> bool:
    """Whether the first line that is not blank is an object of its own."""
    first = next(line for line in content.split("\n") if line.strip())
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _items(whole: Any, path: Path) -> list[Any]:
    """The rows of a parsed file: a list, the one list of an object, or an object that is itself a row."""
    if isinstance(whole, list):
        return whole
    if isinstance(whole, dict) and formats.fitting(whole):
        return [whole]
    lists = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else []
    if len(lists) != 1:
        raise UserError(f"{path}: neither a list of objects nor an object with one such list")
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
        raise UserError(f"{where}: a row is an object of columns and values, not a {type(value).__name__}")
    if _is_deep(value):
        raise UserError(f"{where}: nested too deeply (more than {DEEPEST} levels); fix or delete the row")
    return value


def _is_deep(row: Row) -> bool:
    level: list[Any] = [row]
    for _ in range(DEEPEST):
        parts = (part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole))
        level = [part for part in parts if isinstance(part, (dict, list))]
        if not level:
            return False
    return True


def _read_csv(path: Path, delimiter: str = ",") -> Iterator[PlacedRow]:
    csv.field_size_limit(FIELD_LIMIT)
    with path.open("rb") as lines:
        # strict: without it a quote left open would swallow the rest of the file into one field
        table = csv.reader(_text_lines(lines, path), delimiter=delimiter, strict=True)
        try:
            header = _check_header(next(table, []), path)
            for fields in table:
                if fields:
                    yield f"{path}, line {table.line_num}", _tie(header, fields, f"{path}, line {table.line_num}")
        except csv.Error as error:
            raise UserError(f"{path}, line {table.line_num}: not valid CSV ({error}); fix the line") from None


def _read_tsv(path: Path) -> Iterator[PlacedRow]:
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


def _tie(header: list[str], fields: list[str], where: str) -> Row:
    if len(fields) > len(header):
        raise UserError(
            f"{where}: {len(fields)} fields, but the header names {len(header)}; quote the commas in a field"
        )
    return dict(zip(header, fields, strict=False))


FILE_TYPES: dict[str, Callable[[Path], Iterator[PlacedRow]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": arrow_files.read_parquet,
    ".arrow": arrow_files.read_arrow,
}
