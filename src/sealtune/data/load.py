"""Loading: every row gets an id before any filter, and its conversation, or the reason why it cannot be used."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.core.json_rows import to_json_line
from sealtune.core.types import Drop, Message
from sealtune.data import formats
from sealtune.data.arrow_files import LocatedRow
from sealtune.data.formats import Reader, UnusableRow
from sealtune.data.ids import hash_text
from sealtune.data.row_store import Rows
from sealtune.data.row_writer import Entry, RowWriter
from sealtune.data.text_files import read_rows

logger = logging.getLogger(__name__)

OnProgress = Callable[[int], None]
"""Called every ``REPORT_EVERY`` rows with the number of rows read."""
REPORT_EVERY = 10_000


def load(
    configs: Sequence[DatasetConfig], folder: Path | None = None, on_progress: OnProgress = lambda rows: None
) -> Rows:
    """The rows of these datasets, with ids that are unique over all of them; stored in ``folder`` if given.

    Raises:
        UserError: a source cannot be read, a column is missing, the format is unknown, or no row is usable.
    """
    sources = [_Source(config) for config in configs]
    rows = None
    try:
        rows = _store(sources, RowWriter(folder), on_progress)
    except _FormatChanged as changed:
        logger.info("%s; all datasets are read again", changed)
    if rows is None:
        for source in sources:  # the remaining ones too, so that no source is read more than twice
            source.scan()
        rows = _store(sources, RowWriter(folder), on_progress)
    if not rows.samples:
        raise UserError(_no_usable_row(configs, rows.drops))
    return rows


def no_rows() -> Rows:
    """The rows of no dataset."""
    return RowWriter().finish()


def _store(sources: Sequence[_Source], writer: RowWriter, on_progress: OnProgress) -> Rows:
    with writer:
        for source in sources:
            writer.begin(source.config.fraction)
            for entry in source.read():
                writer.add(entry)
                if len(writer) % REPORT_EVERY == 0:
                    on_progress(len(writer))
        return writer.finish()


class _FormatChanged(Exception):  # noqa: N818 - it restarts the load
    """A row has columns that change the format of the rows before it."""


class _Source:
    """A dataset, and the columns of its rows seen so far."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config
        self.columns: set[str] = set()
        self.reader: Reader | None = None
        """The reader for the columns of all rows; None until every row has been read once."""
        self._rename = _renamer(config.columns)
        self._name = _to_valid_utf8(config.name or Path(config.path).stem)

    def read(self) -> Iterator[Entry]:
        """The rows as entries.

        Raises:
            UserError: as in ``load``.
            _FormatChanged: the format of the entries so far was wrong; the source is complete now.
        """
        reader, rows = self.reader, self._located_rows()
        for where, row in rows:
            if reader is None or not (self.reader or row.keys() <= self.columns):
                reader = self._update_reader(reader, where, row, rows)
            yield self._to_entry(where, row, reader)
        self._complete()

    def scan(self) -> None:
        """Read the columns of all rows, unless they are known. Raises UserError."""
        if self.reader is None:
            self._add_columns(self._located_rows())

    def _update_reader(
        self, reader: Reader | None, where: str, row: Mapping[str, Any], rest: Iterator[LocatedRow]
    ) -> Reader:
        """The reader after the columns of this row; if it differs, read the rest and raise _FormatChanged."""
        self.columns.update(row)
        found = self._find_reader()
        if found is None or (reader is not None and reader is not found):
            self._add_columns(rest)
            raise _FormatChanged(f"{where}: the row format depends on columns that not all rows have")
        return found

    def _add_columns(self, rest: Iterator[LocatedRow]) -> None:
        """Read all remaining rows for their columns."""
        for _, row in rest:
            self.columns.update(row)
        self._complete()

    def _find_reader(self) -> Reader | None:
        """The reader for the columns so far; None if they do not decide it."""
        if self.config.format is not None:
            return formats.get(self.config.format)
        names = formats.matching(self._rename(dict.fromkeys(self.columns)))
        return formats.get(names[0]) if len(names) == 1 else None

    def _complete(self) -> None:
        self.reader = _choose_reader(self.config, self.columns)

    def _located_rows(self) -> Iterator[LocatedRow]:
        if self.config.rows is None:
            return read_rows(self.config)
        return ((f"{self.config.path}, row {number}", row) for number, row in enumerate(self.config.rows, 1))

    def _to_entry(self, where: str, row: Mapping[str, Any], reader: Reader) -> Entry:
        view = self._rename(row)
        try:
            return _entry(row, view, _converse(reader, view), self._name)
        except RecursionError:
            raise UserError(f"{where}: nested too deeply; remove the row") from None


def _renamer(columns: Mapping[str, str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function that returns a row under the format's column names; a renamed column loses its old name."""
    hidden = set(columns.values()) | set(columns)

    def rename(row: Mapping[str, Any]) -> dict[str, Any]:
        rest = {column: value for column, value in row.items() if column not in hidden}
        return rest | {name: row[column] for name, column in columns.items() if column in row}

    return rename


def _choose_reader(config: DatasetConfig, found: set[str]) -> Reader:
    """The reader of the configured format, or of the one that the columns of all rows match. Raises UserError."""
    _require_columns(config.path, config.columns.values(), found)
    renamed = set(_renamer(config.columns)(dict.fromkeys(found)))
    if config.format is not None:
        reader = formats.get(config.format)
        _require_columns(config.path, reader.COLUMNS, renamed)
        return reader
    try:
        return formats.get(formats.detect(renamed))
    except UserError as error:
        raise UserError(f"{config.path}: {error}") from None


def _require_columns(path: str, required: Iterable[str], found: set[str]) -> None:
    for column in sorted(set(required) - found):
        raise UserError(
            f"{path}: no column {column!r} (columns found: {', '.join(sorted(found))}); "
            "`columns` maps the format's name to the file's, as in {prompt: question}"
        )


def _entry(
    row: Mapping[str, Any], view: Mapping[str, Any], found: tuple[Message, ...] | UnusableRow, source: str
) -> Entry:
    is_unusable = isinstance(found, UnusableRow)
    content = _to_canonical_json(row if is_unusable else found)
    return Entry(
        own_id=_own_id(view.get("id")),
        content_hash=hash_text(content),
        source=_source_name(view.get("source")) or source,
        messages=None if is_unusable else content,
        problem=(found.reason, _to_valid_utf8(found.detail)) if isinstance(found, UnusableRow) else (None, None),
        line=to_json_line(row),
    )


def _converse(reader: Reader, view: Mapping[str, Any]) -> tuple[Message, ...] | UnusableRow:
    missing = sorted(column for column in reader.COLUMNS if column not in view)
    if missing:
        return UnusableRow("missing_column", f"the row has no {', '.join(missing)}")
    try:
        return reader.read(view)
    except UnusableRow as error:
        return error


def _own_id(value: Any) -> str | None:
    """The row's own id as text; None if it is missing, blank or NaN, which is how tables store a missing one."""
    if not isinstance(value, str | int | float) or value != value:
        return None
    return _to_valid_utf8(str(value)) if str(value).strip() else None


def _source_name(value: Any) -> str | None:
    return _to_valid_utf8(value) if isinstance(value, str) and value.strip() else None


def _to_valid_utf8(text: str) -> str:
    """The text with lone surrogates escaped, which JSON allows and UTF-8 does not."""
    return text.encode("utf-8", "backslashreplace").decode()


_to_canonical_json = json.JSONEncoder(sort_keys=True, default=repr).encode
"""JSON that does not depend on the order of keys."""


def _no_usable_row(configs: Sequence[DatasetConfig], drops: Sequence[Drop]) -> str:
    paths = ", ".join(config.path for config in configs) or "datasets"
    if not drops:
        return f"{paths}: no row was taken; raise `fraction`"
    reasons = Counter(drop.reason for drop in drops).most_common()
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons)
    return f"{paths}: no usable row ({counts}); first: {drops[0].detail}"
