"""How rows are read: the format that their columns match, under the names that it uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data import context, formats, well_known
from sealtune.data.formats import Reader
from sealtune.data.reasons import plural
from sealtune.data.turns import UnusableRow

MAX_LAYOUTS = 1000
"""Sets of columns that are remembered."""
MAX_UNKNOWN = 1000
"""After this many rows of no known format, and none of a known one, the rest is not read."""

Rename = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Layout:
    """How rows with the same columns are read.

    Attributes:
        name: Name of the format.
        reader: The format.
        columns: What it reads, under the format's names.
        rename: Gives a row's columns the format's names.
        renamed: Column of each field that has another name, if nobody asked for it.
        problem: Why these rows cannot be read.
    """

    name: str
    reader: Reader
    columns: frozenset[str]
    rename: Rename
    renamed: Mapping[str, str]
    problem: UnusableRow | None = None

    @cached_property
    def key(self) -> tuple[str, frozenset[str]]:
        """The format and the columns read."""
        return self.name, self.columns


class Layouts:
    """The layouts of a dataset's rows, by their columns; two formats in one file are two layouts."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config
        self.columns: dict[str, None] = {}
        """All columns seen, in order."""
        self.rows: Counter[tuple[str, frozenset[str]]] = Counter()
        """Number of rows by format and the columns read."""
        self.unknown = 0
        self._known: dict[tuple[str, ...], Layout] = {}
        self._rename = _renamer(config.columns)

    def find(self, row: Mapping[str, Any]) -> tuple[Layout, Mapping[str, Any]]:
        """The layout of a row, and the row under its names.

        Raises:
            UserError: it has become clear that no row can be read.
        """
        layout = self._of(tuple(row))
        view = layout.rename(row)
        for name in layout.reader.COLUMNS:
            if view.get(name) is None:  # in a table, a column that a row does not have is null
                other = self._of(tuple(column for column, value in row.items() if value is not None))
                layout = other if other.problem is None else layout
                view = layout.rename(row)
                break
        if layout.problem is None:
            self.rows[layout.key] += 1
        else:
            self.unknown += 1
            if self.unknown > MAX_UNKNOWN:
                self.require_any()
        return layout, view

    def require_any(self) -> None:
        """Raise UserError if there were rows, and none could be read: it says which columns are needed."""
        path, found = self.config.path, set(self.columns)
        _require_columns(path, set(self.config.columns.values()), found)
        if self.rows or not self.unknown:
            return
        renamed = set(self._rename(dict.fromkeys(found)))
        if self.config.format is not None:
            _require_columns(path, formats.get(self.config.format).COLUMNS, renamed)
        try:
            formats.detect(renamed)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def describe(self) -> Iterator[str]:
        """Lines that say how the rows were read, and which columns were not."""
        if not self.rows:
            return
        read = set(context.COLUMNS) | set(self.config.columns.values())
        counts: Counter[str] = Counter()
        for (name, columns), count in self.rows.items():
            counts[name] += count
            read |= columns
        for layout in self._known.values():
            read |= set(layout.renamed.values())
        names = set(self.columns)
        named = ", ".join(f"{plural(count, 'row')} as {name}" for name, count in counts.items())
        used = sorted(names & read)
        carried = sorted(names - set(used) - {"id", "source"})
        yield f"{named} ({', '.join(used)})" + (f"; carried along: {', '.join(carried)}" if carried else "")
        for layout in self._known.values():
            if layout.renamed and self.rows[layout.key]:
                yield f"read as {layout.name}: " + ", ".join(f"{old} as {new}" for new, old in layout.renamed.items())

    def _of(self, columns: tuple[str, ...]) -> Layout:
        layout = self._known.get(columns)
        if layout is None:
            self.columns.update(dict.fromkeys(columns))
            layout = self._choose(set(self._rename(dict.fromkeys(columns))))
            if len(self._known) < MAX_LAYOUTS:
                self._known[columns] = layout
        return layout

    def _choose(self, columns: set[str]) -> Layout:
        """The layout of rows with these columns, under the names of the configuration."""
        names = formats.matching(columns) if self.config.format is None else [self.config.format]
        if not names and (known := well_known.find(columns)):
            name, fields = known
            renamed = {new: old for new, old in fields.items() if new != old}
            again = _renamer(renamed)
            return _layout(name, lambda row: again(self._rename(row)), renamed)
        if not names:
            return self._unreadable("messages", UnusableRow("missing_column", self._missing(columns)))
        if len(names) > 1:
            detail = f"the columns fit {' and '.join(names)}; choose one with `format`"
            return self._unreadable(names[0], UnusableRow("unclear_format", detail))
        missing = sorted(formats.get(names[0]).COLUMNS - columns)
        if missing:
            return self._unreadable(names[0], UnusableRow("missing_column", f"the row has no {', '.join(missing)}"))
        return _layout(names[0], self._rename, {})

    def _unreadable(self, name: str, problem: UnusableRow) -> Layout:
        return Layout(name, formats.get(name), frozenset(), self._rename, {}, problem)

    def _missing(self, columns: set[str]) -> str:
        """What the row lacks of the format of the rows before it."""
        for name, read in self.rows:
            missing = sorted(formats.get(name).COLUMNS - columns)
            if read & columns:
                return f"the row has no {', '.join(missing)}"
        return f"columns of no known format ({', '.join(sorted(map(str, columns)))[:200]})"


def _layout(name: str, rename: Rename, renamed: Mapping[str, str]) -> Layout:
    reader = formats.get(name)
    return Layout(name, reader, formats.columns_of(reader), rename, renamed)


def _renamer(columns: Mapping[str, str]) -> Rename:
    """A function that returns a row under the format's column names; a renamed column loses its old name."""
    if not columns:
        return lambda row: row
    hidden = set(columns.values()) | set(columns)

    def rename(row: Mapping[str, Any]) -> dict[str, Any]:
        rest = {column: value for column, value in row.items() if column not in hidden}
        return rest | {name: row[column] for name, column in columns.items() if column in row}

    return rename


def _require_columns(path: str, required: set[str] | frozenset[str], found: set[str]) -> None:
    for column in sorted(required - found):
        raise UserError(
            f"{path}: no column {column!r} (columns found: {', '.join(sorted(map(str, found)))}); "
            "`columns` maps the format's name to the file's, as in {prompt: question}"
        )
