r"""How a CSV or TSV file is written: its separator, its quotes, and blanks behind separators.

The separator:
    1. A first line ``sep=;``, as Excel knows it, names it.
    2. Otherwise it is that of the file type (comma, tab), if with it every line of the sample has the fields of the
       header, two at least.
    3. Otherwise it is the only other one of ``NAMES`` of which the same is true. If several are, the file is refused.
    4. Otherwise it is that of the file type; reading names the line that does not fit.

The quotes, decided by the whole file if it contains any:
    1. Standard quoting (RFC 4180) if all records can be read with it and none has more fields than the header; except
       if it joins lines that already have all fields of the header, which means that a quote is only a character (a
       header in quotes shows that it is not).
    2. Otherwise quotes within a field are escaped by a backslash, if the file contains ``\"`` and the same is true. A
       backslash that precedes neither a quote nor a backslash is a character.
    3. Otherwise, between tabs, quotes are characters, if each line has exactly the fields of the header.
    4. Otherwise standard quoting; reading names the line that is wrong.

Blanks behind separators are left out if one precedes a name of the header, or a field in quotes of the sample.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from typing import Any

from sealtune.core.errors import UserError
from sealtune.data.data_file import DataFile, decode

MAX_FIELD_CHARACTERS = 64 * 2**20
SAMPLE_LINES, SAMPLE_CHARACTERS = 200, 2**20

OWN_SEPARATORS = {".csv": ",", ".tsv": "\t"}
NAMES = {
    ",": "commas",
    ";": "semicolons",
    "\t": "tabs",
    "|": "vertical bars",
    "^": "carets",
    "~": "tildes",
    "\x1f": "unit separators (0x1f)",
    "\x01": "0x01",
}
"""The separators that are known, with their names."""

_SEP_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE | re.DOTALL)
_QUOTED_AFTER_BLANK = re.compile(r' +"[^"]*"\s*')
_ESCAPES = re.compile(r'\\(["\\])|\\')


class Quoting(Enum):
    """What a quote does."""

    STANDARD = "encloses a field, and is doubled within it"
    BACKSLASH = "encloses a field, and is escaped within it"
    NONE = "nothing"


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Args:
        separator: One character.
        quoting: What quotes do.
        skip_blanks: Whether blanks behind a separator are left out.
        skip: How many lines precede the header.
    """

    separator: str
    quoting: Quoting = Quoting.STANDARD
    skip_blanks: bool = False
    skip: int = 0

    def reader(self, lines: Iterable[str], *, strict: bool = True) -> Any:
        """Python's reader of these lines. Strict: otherwise an unclosed quote would turn the rest into one field."""
        csv.field_size_limit(MAX_FIELD_CHARACTERS)
        options: dict[str, Any] = {"delimiter": self.separator, "skipinitialspace": self.skip_blanks, "strict": strict}
        if self.quoting is Quoting.NONE:
            return csv.reader(lines, **options, quoting=csv.QUOTE_NONE)
        if self.quoting is Quoting.BACKSLASH:
            return csv.reader(map(_double_lone_backslashes, lines), **options, escapechar="\\")
        return csv.reader(lines, **options)


def find_dialect(file: DataFile) -> Dialect:
    """The dialect of a file, by the rules above. Raises UserError."""
    sample, complete = _sample(file)
    named = _SEP_LINE.fullmatch(sample[0]) if sample else None
    separator = _require_known(named[1], file) if named else _separator(sample, complete, file)
    dialect = Dialect(separator, skip=1 if named else 0)
    if _has_blanks(sample[dialect.skip :], dialect):
        dialect = replace(dialect, skip_blanks=True)
    return replace(dialect, quoting=_quoting(file, dialect))


def text_lines(file: DataFile) -> Iterator[str]:
    """The lines of a file as text. Raises UserError that names the line."""
    for number, line in enumerate(_byte_lines(file), 1):
        where = f"{file.path}, line {number}"
        if b"\0" in line:
            raise UserError(f"{where}: a NUL byte; save the file as UTF-8 text")
        yield decode(line, where)


def _byte_lines(file: DataFile) -> Iterator[bytes]:
    lines = file.lines()
    first = next(lines, b"")
    if b"\r" in first and not first.endswith(b"\n"):  # an old Macintosh: the file has no other line breaks
        yield from first.replace(b"\r", b"\n").splitlines(keepends=True)
    else:
        yield first
    yield from lines


def _sample(file: DataFile) -> tuple[list[str], bool]:
    """The first lines that are not blank, and whether they are all."""
    lines: list[str] = []
    size = 0
    rest = text_lines(file.copy())
    for line in rest:
        lines.append(line)
        size += len(line)
        if len(lines) == SAMPLE_LINES or size > SAMPLE_CHARACTERS:
            return lines, next(rest, None) is None
    return lines, True


def _require_known(separator: str, file: DataFile) -> str:
    if separator not in NAMES:
        raise UserError(
            f"{file.path}, line 1: the separator {separator!r} is not known; known: {', '.join(NAMES.values())}"
        )
    return separator


def _separator(sample: list[str], complete: bool, file: DataFile) -> str:
    own = OWN_SEPARATORS[file.type]
    if _fits(sample, complete, own):
        return own
    fitting = [separator for separator in NAMES if separator != own and _fits(sample, complete, separator)]
    if len(fitting) > 1:
        names = " or ".join(NAMES[separator] for separator in fitting)
        raise UserError(f"{file.path}: may be separated by {names}; say which in a first line such as sep={fitting[0]}")
    return fitting[0] if fitting else own


def _fits(sample: list[str], complete: bool, separator: str) -> bool:
    """Whether all records of the sample have the fields of the header, two at least, with or without quotes."""
    for quoting in (Quoting.STANDARD, Quoting.BACKSLASH, Quoting.NONE):
        records = _records(sample, Dialect(separator, quoting))
        checked = records if complete else records[:-1]  # the sample may end within a field
        if checked and len(checked[0]) > 1 and all(len(fields) == len(checked[0]) for fields in checked):
            return True
    return False


def _records(sample: list[str], dialect: Dialect) -> list[list[str]]:
    """The records of the sample that are not blank, up to one that cannot be read."""
    records: list[list[str]] = []
    with suppress(csv.Error):  # reading the file names the line
        records.extend(dialect.reader(sample, strict=False))
    return [fields for fields in records if fields]


def _has_blanks(sample: list[str], dialect: Dialect) -> bool:
    """Whether a blank precedes a name of the header other than the first, or a field in quotes."""
    records = _records(sample, dialect)
    if records and any(name.startswith(" ") for name in records[0][1:]):
        return True
    return any(_QUOTED_AFTER_BLANK.fullmatch(field) for fields in records for field in fields[1:])


# -- quotes ------------------------------------------------------------------------------------------------------------


def _quoting(file: DataFile, dialect: Dialect) -> Quoting:
    quotes, escapes = _find_quotes(file)
    if not quotes:
        return Quoting.STANDARD
    alone = _lines_fit_alone(file, dialect)
    candidates = [Quoting.STANDARD, *([Quoting.BACKSLASH] if escapes else [])]
    for quoting in candidates:
        if _is_readable(file, replace(dialect, quoting=quoting), may_join=not alone):
            return quoting
    return Quoting.NONE if alone and dialect.separator == "\t" else Quoting.STANDARD


def _find_quotes(file: DataFile) -> tuple[bool, bool]:
    r"""Whether a file contains ``"``, and whether it contains ``\"``."""
    quotes = escapes = False
    for line in file.copy().lines():
        quotes = quotes or b'"' in line
        escapes = escapes or b'\\"' in line
        if escapes:
            break
    return quotes, escapes


def _lines_fit_alone(file: DataFile, dialect: Dialect) -> bool:
    """Whether each line has exactly the fields of the header, two at least, if quotes are only characters.

    False if the header is in quotes: they enclose something.
    """
    lines = (line for line in _body(file, dialect) if line.strip("\r\n"))
    header = next(lines, "")
    count = header.count(dialect.separator)
    return count > 0 and '"' not in header and all(line.count(dialect.separator) == count for line in lines)


def _is_readable(file: DataFile, dialect: Dialect, *, may_join: bool) -> bool:
    """Whether all records can be read, none has more fields than the header, and none joins lines unless it may."""
    table = dialect.reader(_body(file, dialect))
    try:
        size = len(next((fields for fields in table if fields), []))
        before = table.line_num
        for fields in table:
            if len(fields) > size or (not may_join and table.line_num > before + 1):
                return False
            before = table.line_num
    except csv.Error:
        return False
    return True


def _body(file: DataFile, dialect: Dialect) -> Iterator[str]:
    return islice(text_lines(file.copy()), dialect.skip, None)


def _double_lone_backslashes(line: str) -> str:
    """The line with backslashes doubled that escape neither a quote nor a backslash, so that they remain."""
    return _ESCAPES.sub(lambda found: found[0] if found[1] else "\\\\", line)
