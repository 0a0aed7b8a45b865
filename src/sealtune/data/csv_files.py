"""Rows of CSV and TSV files, after ``csv_dialects`` has found how they are written."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from itertools import islice

from sealtune.core.errors import UserError
from sealtune.data.arrow_files import LocatedRow
from sealtune.data.csv_dialects import NAMES, OWN_SEPARATORS, Dialect, Quoting, find_dialect, text_lines
from sealtune.data.data_file import DataFile

logger = logging.getLogger(__name__)


def read_csv(file: DataFile) -> Iterator[LocatedRow]:
    """Rows of a CSV or TSV file, by column; all values are texts. Raises UserError that names the line."""
    dialect = find_dialect(file)
    _log_unusual(file, dialect)
    lines = islice(text_lines(file), dialect.skip, None)
    table = dialect.reader(lines)
    try:
        header = _check_header(next((fields for fields in table if fields), []), file, dialect)
        for fields in table:
            if fields:
                where = f"{file.path}, line {table.line_num + dialect.skip}"
                yield where, _to_row(header, fields, where, dialect)
    except csv.Error as error:
        raise UserError(
            f"{file.path}, line {table.line_num + dialect.skip}: not valid CSV ({error}); fix the line; quotes must "
            'enclose a whole field, and are written twice within it: "a ""b"" c"'
        ) from None


def _log_unusual(file: DataFile, dialect: Dialect) -> None:
    """Say once how the file is read, if that is not what its type says."""
    notes = []
    if dialect.separator != OWN_SEPARATORS[file.type]:
        notes.append(f"separated by {NAMES[dialect.separator]}")
    if dialect.quoting is Quoting.BACKSLASH:
        notes.append('quotes within a field are written as \\"')
    if dialect.quoting is Quoting.NONE:
        notes.append("quotes are characters and enclose nothing")
    if dialect.skip_blanks:
        notes.append("blanks behind separators are left out")
    if notes:
        logger.info("%s: %s", file.path, "; ".join(notes))


def _check_header(header: list[str], file: DataFile, dialect: Dialect) -> list[str]:
    """The names of the columns, without blanks around them. Raises UserError."""
    names = [name.strip() for name in header]
    for number, name in enumerate(names, 1):
        if not name:
            hint = "pandas: write with index=False" if number == 1 else f"separated by {NAMES[dialect.separator]}"
            raise UserError(f"{file.path}: column {number} has no name ({hint}); correct the header")
        if name in names[: number - 1]:
            raise UserError(f"{file.path}: two columns are named {name!r}")
    return names


def _to_row(header: list[str], fields: list[str], where: str, dialect: Dialect) -> dict[str, str]:
    if len(fields) > len(header):
        separator = NAMES[dialect.separator]
        raise UserError(
            f"{where}: {len(fields)} fields, but the header has {len(header)} (separated by {separator}); quote fields "
            f"that contain {separator}, or correct the header"
        )
    return dict(zip(header, fields, strict=False))
