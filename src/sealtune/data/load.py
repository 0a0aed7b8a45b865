"""Loading: every row gets an id before any filter, and its conversation, or the reason why it cannot be used."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.core.json_rows import to_json_line
from sealtune.core.types import Drop, Message
from sealtune.data.arrow_files import LocatedRow
from sealtune.data.context import Conversation, add_context
from sealtune.data.ids import hash_text
from sealtune.data.layouts import Layout, Layouts
from sealtune.data.reasons import count_reasons, plural
from sealtune.data.row_store import Rows
from sealtune.data.row_writer import Entry, RowWriter
from sealtune.data.sources import read_rows
from sealtune.data.turns import UnusableRow

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
    with RowWriter(folder) as writer:
        for source in map(_Source, configs):
            writer.begin(source.config.fraction)
            for entry in source.read():
                writer.add(entry)
                if len(writer) % REPORT_EVERY == 0:
                    on_progress(len(writer))
        rows = writer.finish()
    if not rows.samples:
        raise UserError(_no_usable_row(configs, rows.drops))
    return rows


def no_rows() -> Rows:
    """The rows of no dataset."""
    return RowWriter().finish()


class _Source:
    """A dataset, and how its rows are read."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config
        self.layouts = Layouts(config)
        self.notes: Counter[str] = Counter()
        self._name = _to_valid_utf8(config.name or _name_of(config.path))

    def read(self) -> Iterator[Entry]:
        """The rows as entries; how they were read is logged at the end. Raises UserError as in ``load``."""
        for where, row in self._located_rows():
            layout, view = self.layouts.find(row)
            try:
                yield _entry(row, view, self._converse(layout, view), self._name)
            except RecursionError:
                raise UserError(f"{where}: nested too deeply; remove the row") from None
        self.layouts.require_any()
        notes = (f"{plural(count, 'row')}: {note}" for note, count in self.notes.items())
        for line in (*self.layouts.describe(), *notes):
            logger.info("%s: %s", self.config.path, line)

    def _located_rows(self) -> Iterator[LocatedRow]:
        if self.config.rows is None:
            return read_rows(self.config)
        return ((f"{self.config.path}, row {number}", row) for number, row in enumerate(self.config.rows, 1))

    def _converse(self, layout: Layout, view: Mapping[str, Any]) -> Conversation | UnusableRow:
        if layout.problem is not None:
            return layout.problem
        try:
            found = add_context(layout.reader.read(view), view, layout.columns)
        except UnusableRow as error:
            return error
        if found.notes:
            self.notes.update(found.notes)
        return found


def _name_of(path: str) -> str:
    """The name of a dataset in tables: its file's without the suffixes; its folder's, for a pattern."""
    parts = [part for part in Path(path).parts if not set(part) & set("*?[")]
    return parts[-1].partition(".")[0] or parts[-1] if parts else path


def _entry(row: Mapping[str, Any], view: Mapping[str, Any], found: Conversation | UnusableRow, source: str) -> Entry:
    content = _to_canonical_json(row if isinstance(found, UnusableRow) else _compact(found))
    return Entry(
        own_id=_own_id(view.get("id")),
        content_hash=hash_text(content),
        source=_source_name(view.get("source")) or source,
        messages=None if isinstance(found, UnusableRow) else content,
        problem=(found.reason, _to_valid_utf8(found.detail)) if isinstance(found, UnusableRow) else (None, None),
        line=to_json_line(row),
    )


def _compact(conversation: Conversation) -> Any:
    """The conversation without what is empty: the ids of rows do not depend on what they do not have."""
    turns = [_compact_turn(turn) for turn in conversation.messages]
    return {"turns": turns, "tools": conversation.tools} if conversation.tools else turns


def _compact_turn(turn: Message) -> Sequence[Any]:
    return turn if turn.fields or not turn.train else turn[:2]


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
    return f"{paths}: no usable row ({count_reasons(drops)}); first: {drops[0].detail}"
