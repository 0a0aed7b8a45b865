"""The door: every row gets its id here, before any filter, and its conversation, or the reason why it has none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.core.json_rows import to_json_line
from sealtune.core.types import Drop, Message
from sealtune.data import formats
from sealtune.data.formats import Reader, UnusableRow
from sealtune.data.ids import hash_text
from sealtune.data.row_store import Entry, Rows, RowWriter
from sealtune.data.text_files import PlacedRow, read_rows

Tell = Callable[[int, int | None], None]
"""Called now and then with the number of rows that were read, and of all; None while they are counted."""
TELL_EVERY = 10_000


def load(configs: Sequence[DatasetConfig], folder: Path | None = None, tell: Tell = lambda rows, total: None) -> Rows:
    """The rows of these data sets, each under an id that no other row of the call has; kept in ``folder`` if given.

    Raises:
        UserError: a source that cannot be read, a missing column, an unknown format, or no usable row.
    """
    # All are gone through twice, since any row may show a column that decides how every row is read.
    surveys = [_survey(config, tell) for config in configs]
    writer, total = RowWriter(folder), sum(count for _, count in surveys)
    for config, (reader, _) in zip(configs, surveys, strict=True):
        writer.begin(config.fraction)
        for entry in _read(config, reader):
            writer.add(entry)
            if len(writer) % TELL_EVERY == 0:
                tell(len(writer), total)
    rows = writer.finish()
    if not rows.samples:
        raise UserError(_nothing_left(configs, rows.drops))
    return rows


def no_rows() -> Rows:
    """What comes through the door where there is no data set."""
    return RowWriter().finish()


def _survey(config: DatasetConfig, tell: Tell) -> tuple[Reader, int]:
    """The reader of a data set's rows, and how many there are."""
    columns: set[str] = set()
    count = 0
    for _, row in _placed_rows(config):
        columns.update(row)
        count += 1
        if count % TELL_EVERY == 0:
            tell(count, None)
    return _choose_reader(config, columns), count


def _read(config: DatasetConfig, reader: Reader) -> Iterator[Entry]:
    view = _renaming(config.columns)
    fallback = _printable(config.name or Path(config.path).stem)
    for where, row in _placed_rows(config):
        try:
            yield _entry(row, view(row), reader, fallback)
        except RecursionError:
            raise UserError(f"{where}: nested too deeply; leave the row out") from None


def _placed_rows(config: DatasetConfig) -> Iterator[PlacedRow]:
    if config.rows is None:
        return read_rows(config)
    return ((f"{config.path}, row {number}", row) for number, row in enumerate(config.rows, 1))


def _renaming(columns: Mapping[str, str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function that shows a row under the format's own names; a renamed column is not shown under its old one."""
    hidden = set(columns.values()) | set(columns)

    def view(row: Mapping[str, Any]) -> dict[str, Any]:
        rest = {column: value for column, value in row.items() if column not in hidden}
        return rest | {name: row[column] for name, column in columns.items() if column in row}

    return view


def _choose_reader(config: DatasetConfig, found: set[str]) -> Reader:
    """The reader of the format that is named, or that the columns show. Raises UserError."""
    _demand(config.path, config.columns.values(), found)
    shown = set(_renaming(config.columns)(dict.fromkeys(found)))
    if config.format is not None:
        reader = formats.get(config.format)
        _demand(config.path, reader.COLUMNS, shown)
        return reader
    try:
        return formats.get(formats.detect(shown))
    except UserError as error:
        raise UserError(f"{config.path}: {error}") from None


def _demand(path: str, wanted: Iterable[str], found: set[str]) -> None:
    for column in sorted(set(wanted) - found):
        raise UserError(
            f"{path}: no column {column!r} (columns found: {', '.join(sorted(found))}); "
            "`columns` maps the format's name to the file's, as in {prompt: question}"
        )


def _entry(row: Mapping[str, Any], view: Mapping[str, Any], reader: Reader, source: str) -> Entry:
    found = _converse(reader, view)
    unusable = isinstance(found, UnusableRow)
    content = _canonical(row if unusable else found)
    return Entry(
        own=_own_id(view.get("id")),
        content=hash_text(content),
        source=_source(view.get("source")) or source,
        messages=None if unusable else content,
        fault=(found.reason, _printable(found.detail)) if isinstance(found, UnusableRow) else (None, None),
        line=to_json_line(row),
    )


def _converse(reader: Reader, view: Mapping[str, Any]) -> tuple[Message, ...] | UnusableRow:
    missing = sorted(column for column in reader.COLUMNS if column not in view)
    if missing:
        return UnusableRow("missing_column", f"the row has no {', '.join(missing)}")
    try:
        return reader.read(view)
    except UnusableRow as fault:
        return fault


def _own_id(value: Any) -> str | None:
    """The row's own id as text; None where it is missing, blank or NaN, as tables write a missing one."""
    if not isinstance(value, str | int | float) or value != value:
        return None
    return _printable(str(value)) if str(value).strip() else None


def _source(value: Any) -> str | None:
    return _printable(value) if isinstance(value, str) and value.strip() else None


def _printable(text: str) -> str:
    """Text that UTF-8 can hold: JSON may carry half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


_canonical = json.JSONEncoder(sort_keys=True, default=repr).encode
"""A content as text, whatever the order of its keys."""


def _nothing_left(configs: Sequence[DatasetConfig], drops: Sequence[Drop]) -> str:
    paths = ", ".join(config.path for config in configs) or "datasets"
    if not drops:
        return f"{paths}: no row was taken; raise `fraction`"
    reasons = Counter(drop.reason for drop in drops).most_common()
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons)
    return f"{paths}: no usable row ({counts}); first: {drops[0].detail}"
