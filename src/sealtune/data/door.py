"""The door: every row gets its id here, before any filter, and its conversation, or the reason why it has none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from sealtune.config import DatasetConfig
from sealtune.data import readers
from sealtune.data.files import read_rows
from sealtune.data.readers import Reader, UnusableRow
from sealtune.records import Drop, IntArray, Message, Sample, UserError
from sealtune.texts import Texts


@dataclass(frozen=True, slots=True)
class Rows:
    """What came through the door and what did not, both in input order."""

    samples: list[Sample]
    drops: list[Drop]

    def positions(self, ids: Iterable[str]) -> IntArray:
        """The place of each of these samples (K,) among all rows read."""
        places = np.array([sample.position for sample in self.samples], np.int64)
        return places[Texts.of(sample.id for sample in self.samples).find(ids)]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row as read: its own id if it has one, the hash of its content, and its messages or its fault."""

    own: str | None
    content: str
    source: str
    fraction: float
    row: Mapping[str, Any]
    found: tuple[Message, ...] | UnusableRow


def load(configs: Sequence[DatasetConfig]) -> Rows:
    """The rows of these data sets, each under an id that no other row of the call has.

    Raises:
        UserError: a source that cannot be read, a missing column, an unknown format, or no usable row.
    """
    entries = [entry for config in configs for entry in _read(config)]
    rows = Rows([], [])
    for position, (name, entry) in enumerate(zip(_name(entries), entries, strict=True)):
        if _share(name) >= entry.fraction:
            continue
        if isinstance(entry.found, UnusableRow):
            rows.drops.append(Drop(name, entry.source, entry.found.reason, entry.found.detail, entry.row, position))
        else:
            rows.samples.append(Sample(name, entry.found, entry.source, entry.row, position))
    if not rows.samples:
        raise UserError(_nothing_left(configs, rows.drops))
    return rows


def _read(config: DatasetConfig) -> list[_Entry]:
    rows = config.rows if config.rows is not None else [row for _, row in read_rows(config)]
    view = _renaming(config.columns)
    reader = _choose_reader(config, {column for row in rows for column in row})
    fallback = config.name or Path(config.path).stem
    return [_entry(row, view(row), reader, fallback, config.fraction) for row in rows]


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
        reader = readers.get(config.format)
        _demand(config.path, reader.COLUMNS, shown)
        return reader
    try:
        return readers.get(readers.detect(shown))
    except UserError as error:
        raise UserError(f"{config.path}: {error}") from None


def _demand(path: str, wanted: Iterable[str], found: set[str]) -> None:
    for column in sorted(set(wanted) - found):
        raise UserError(
            f"{path}: no column {column!r} (columns found: {', '.join(sorted(found))}); "
            "`columns` maps the format's name to the file's, as in {prompt: question}"
        )


def _entry(row: Mapping[str, Any], view: Mapping[str, Any], reader: Reader, source: str, fraction: float) -> _Entry:
    found = _converse(reader, view)
    content = row if isinstance(found, UnusableRow) else found
    return _Entry(_own_id(view.get("id")), _hash(content), _source(view.get("source")) or source, fraction, row, found)


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


def _hash(content: Any) -> str:
    """16 hex digits of the content alone, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, default=repr)
    return blake2b(canonical.encode(), digest_size=8).hexdigest()


def _name(entries: Sequence[_Entry]) -> list[str]:
    """One id an entry; only the suffix of exact duplicates depends on the order of the entries."""
    stems = [entry.own or entry.content for entry in entries]
    contents: dict[str, set[str]] = {}
    for stem, entry in zip(stems, entries, strict=True):
        contents.setdefault(stem, set()).add(entry.content)
    clear = [
        stem if len(contents[stem]) == 1 else f"{stem}~{entry.content[:8]}"
        for stem, entry in zip(stems, entries, strict=True)
    ]
    return _number_duplicates(clear)


def _number_duplicates(names: Sequence[str]) -> list[str]:
    """Each name made unique: ``a, a, a`` becomes ``a, a-2, a-3``, past any name that is taken already."""
    taken, seen, unique = set(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        numbered = name
        while seen[name] > 1 and (numbered := f"{name}-{seen[name]}") in taken:
            seen[name] += 1
        taken.add(numbered)
        unique.append(numbered)
    return unique


def _share(name: str) -> float:
    """Where an id falls in [0, 1): the same for every order of the rows."""
    digest = blake2b(name.encode(), digest_size=8, person=b"fraction").digest()
    return int.from_bytes(digest, "big") / 2**64


def _nothing_left(configs: Sequence[DatasetConfig], drops: Sequence[Drop]) -> str:
    paths = ", ".join(config.path for config in configs) or "datasets"
    if not drops:
        return f"{paths}: no row was taken; raise `fraction`"
    reasons = Counter(drop.reason for drop in drops).most_common()
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons)
    return f"{paths}: no usable row ({counts}); first: {drops[0].detail}"
