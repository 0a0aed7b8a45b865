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
from sealtune.data.row_store import Entry, Rows, RowWriter
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
    try:
        rows = _store(sources, RowWriter(folder), on_progress)
    except _FormatChanged as changed:
        # The format depends on all columns. Once every source has been read to its end, they are known.
        logger.info("%s; all datasets are read again", changed)
        for source in sources:
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
    """Columns of a late row change the format of a dataset."""


class _Source:
    """A dataset, and the columns of its rows seen so far."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config
        self.columns: set[str] = set()
        self.is_complete = False
        """Whether ``columns`` are those of all rows."""
        self._rename = _renamer(config.columns)
        self._name = _to_valid_utf8(config.name or Path(config.path).stem)

    def read(self) -> Iterator[Entry]:
        """The rows as entries.

        Raises:
            UserError: as in ``load``.
            _FormatChanged: a row has columns that change the format.
        """
        reader = self._find_reader()
        is_first = True
        for where, row in self._located_rows():
            if not row.keys() <= self.columns:
                self.columns.update(row)
                before, reader = reader, self._find_reader()
                if reader is None or not (is_first or reader is before):
                    raise _FormatChanged(f"{where}: new columns change the row format")
            is_first = False
            yield self._to_entry(where, row, reader)
        self._complete()

    def scan(self) -> None:
        """Collect the columns of all rows. Raises UserError."""
        if not self.is_complete:
            for _, row in self._located_rows():
                self.columns.update(row)
            self._complete()

    def _complete(self) -> None:
        self.is_complete = True
        _choose_reader(self.config, self.columns)

    def _find_reader(self) -> Reader | None:
        """The reader for the columns seen so far; None if they do not decide it."""
        if self.is_complete:
            return _choose_reader(self.config, self.columns)
        if self.config.format is not None:
            return formats.get(self.config.format)
        names = formats.matching(self._rename(dict.fromkeys(self.columns)))
        return formats.get(names[0]) if len(names) == 1 else None

    def _located_rows(self) -> Iterator[LocatedRow]:
        if self.config.rows is None:
            return read_rows(self.config)
        return ((f"{self.config.path}, row {number}", row) for number, row in enumerate(self.config.rows, 1))
