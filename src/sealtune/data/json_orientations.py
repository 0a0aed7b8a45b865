"""How rows are arranged in a JSON document: as a list, by columns, as pandas writes them, by split, in an object.

An arrangement is recognised by its structure alone, in the order of ``_ORIENTATIONS``, and is named in the log. If a
document fits none, one line says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from sealtune.core.errors import UserError
from sealtune.data import formats
from sealtune.data.data_file import DataFile
from sealtune.data.split_names import split_of

logger = logging.getLogger(__name__)

Document = dict[str, Any]

CONTAINERS = frozenset({"data", "rows", "items", "examples", "instances", "records", "samples"})
"""Keys that usually hold the rows of a document."""


def rows_of_document(value: Any, file: DataFile) -> list[Any]:
    """The rows of a file that is one JSON value; they are not checked yet. Raises UserError."""
    if isinstance(value, list):
        require_split(file)
        return rows_of_list(value)
    if not isinstance(value, dict):
        raise UserError(f"{file.path}: a row must be an object, not a {type(value).__name__}")
    for name, read in _ORIENTATIONS.items():
        found = read(value, file)
        if found is not None:
            logger.info("%s: JSON read %s", file.path, name)
            return found
    require_split(file)
    if file.type == ".json" and not formats.matching(value) and not _has_two_texts(value):
        keys = ", ".join(list(value)[:10]) or "none"
        raise UserError(
            f"{file.path}: neither a list of objects nor an object that contains one (its keys: {keys}); write a list "
            "with one object per row (pandas: orient='records')"
        )
    return [value]


def rows_of_list(items: list[Any]) -> list[Any]:
    """The rows in a list: its items. A list of turns is a conversation, and becomes the row that holds it."""
    return [_conversation(items)] if _is_turns(items) else list(map(_conversation, items))


def _conversation(item: Any) -> Any:
    """The row of a list of turns; anything else as it is."""
    return {"messages" if "role" in item[0] else "conversations": item} if _is_turns(item) else item


def require_split(file: DataFile, splits: Iterable[str] = ("train",)) -> None:
    """Raise UserError if the split to read is not among these; a file without splits is all ``train``."""
    if file.split not in (names := list(splits)):
        has = "the file has no splits; remove `split`" if names == ["train"] else f"it has {', '.join(names)}"
        raise UserError(f"{file.path}: no split {file.split!r}; {has}")


# -- what a value is ---------------------------------------------------------------------------------------------------


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_turn, value))


def _is_turn(value: Any) -> bool:
    if not isinstance(value, dict) or not ("role" in value or "from" in value):
        return False
    return "content" in value or "value" in value or not formats.matching(value)


def _is_rows(value: Any) -> bool:
    """Whether this is a list of objects that are not turns, or a list of conversations."""
    if not isinstance(value, list) or not value or _is_turns(value):
        return False
    return all(isinstance(item, dict) for item in value) or all(map(_is_turns, value))


def _is_row(value: Document) -> bool:
    """Whether an object is a row of a known format even without the rows or columns that it contains."""
    return bool(formats.matching(key for key, part in value.items() if not _is_rows(part) and not _is_table(part)))


def _is_table(value: Any) -> bool:
    """Whether this is an object of columns: lists, at least one of them without objects, none of them turns."""
    if not isinstance(value, dict) or not value:
        return False
    if not all(isinstance(part, list) and not _is_turns(part) for part in value.values()):
        return False
    return any(part and not any(isinstance(cell, dict) for cell in part) for part in value.values())


def _has_two_texts(value: Document) -> bool:
    """Whether an object may be a row of a format that the config describes: a question and an answer at least."""
    return sum(isinstance(part, str) for part in value.values()) > 1


# -- arrangements: each returns the rows, or None if the document is arranged otherwise --------------------------------


def _server_page(value: Document, file: DataFile) -> list[Any] | None:
    rows = value.get("rows")
    if not isinstance(rows, list) or not _is_rows(rows):
        return None
    if not all("row_idx" in row and isinstance(row.get("row"), dict) for row in rows if isinstance(row, dict)):
        return None
    require_split(file)
    for number, row in enumerate(rows, 1):
        if row.get("truncated_cells"):
            raise UserError(f"{file.path}, row {number}: the server has cut its cells; download the data set itself")
    total = value.get("num_rows_total")
    if isinstance(total, int) and total > len(rows):
        logger.info("%s: one page, %s of the %s rows of the data set", file.path, f"{len(rows):,}", f"{total:,}")
    return [row["row"] for row in rows]


def _split_frame(value: Document, file: DataFile) -> list[Any] | None:
    columns, data = value.get("columns"), value.get("data")
    if not isinstance(columns, list) or not isinstance(data, list) or not all(isinstance(x, list) for x in data):
        return None
    require_split(file)
    if not all(isinstance(name, str) for name in columns) or len(set(columns)) < len(columns):
        raise UserError(f"{file.path}: orient='split' with column names that are not unique texts; rename the columns")
    for number, cells in enumerate(data, 1):
        if len(cells) != len(columns):
            raise UserError(f"{file.path}, row {number}: {len(cells)} values, but there are {len(columns)} columns")
    return [dict(zip(columns, cells, strict=True)) for cells in data]


def _splits(value: Document, file: DataFile) -> list[Any] | None:
    parts = {key: part for key, part in value.items() if _is_rows(part) or _is_table(part)}
    if not parts or _is_row(value) or not (file.split in parts or all(map(split_of, parts))):
        return None
    require_split(file, parts)
    if others := [key for key in parts if key != file.split]:
        logger.info("%s: only the split %s is read, not %s", file.path, file.split, ", ".join(others))
    part = parts[file.split]
    return rows_of_list(part) if isinstance(part, list) else _transposed(part, file)


def _is_splits(value: Any) -> bool:
    """Whether this is an object of nothing but splits."""
    if not isinstance(value, dict) or not value:
        return False
    return all(split_of(key) and (_is_rows(part) or _is_table(part)) for key, part in value.items())


def _container(value: Document, file: DataFile) -> list[Any] | None:
    """Rows under a usual name; in a .json file, also the only list of rows under any name."""
    if len(nested := [key for key in value if key in CONTAINERS and _is_splits(value[key])]) == 1:
        return _splits(value[nested[0]], file)
    if _is_row(value):
        return None
    found = [key for key, part in value.items() if _is_rows(part) or (key in CONTAINERS and _is_table(part))]
    named = [key for key in found if key in CONTAINERS]
    if not found or not (named or file.type == ".json"):
        return None
    if len(found) > 1:
        raise UserError(f"{file.path}: several lists of rows ({', '.join(found)}); keep one, or save each as a file")
    require_split(file)
    part = value[found[0]]
    return rows_of_list(part) if isinstance(part, list) else _transposed(part, file)


def _columns(value: Document, file: DataFile) -> list[Any] | None:
    if not _is_table(value) or (len(value) == 1 and set(value) <= CONTAINERS):
        return None
    if any(_is_rows(part) and key in CONTAINERS for key, part in value.items()):
        return None
    if file.type != ".json" and all(len(column) == 1 for column in value.values()):  # a line is a row if it can be one
        return None
    require_split(file)
    return _transposed(value, file)


def _transposed(value: Document, file: DataFile) -> list[Any]:
    sizes = {name: len(column) for name, column in value.items()}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{name}: {size}" for name, size in list(sizes.items())[:10])
        raise UserError(f"{file.path}: JSON by columns of unequal length ({counts}); write one object per row")
    return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]


def _frame(value: Document, file: DataFile) -> list[Any] | None:
    """What pandas writes with orient='columns', its default: {column: {label: cell}}; or 'index': {label: row}.

    Labels are numbers, or the columns belong to a known row format. A label that is not a number becomes the row's id.
    """
    inner = [part for part in value.values() if isinstance(part, dict) and part]
    if len(inner) < len(value) or not inner:
        return None
    same_keys = all(part.keys() == inner[0].keys() for part in inner)
    if _are_numbers(value) and not _are_numbers(inner[0]):
        rows: list[Document] = inner
    elif same_keys and _are_numbers(inner[0]) and not _are_numbers(value):
        rows = [{name: column[label] for name, column in value.items()} for label in inner[0]]
    elif all(map(formats.matching, inner)):
        rows = [{"id": label, **row} for label, row in value.items()]
    elif same_keys and len(inner[0]) > 1 and formats.matching(value):
        rows = [{"id": label, **{name: column[label] for name, column in value.items()}} for label in inner[0]]
    else:
        return None
    require_split(file)
    return rows


def _are_numbers(labels: Iterable[str]) -> bool:
    return all(label.isdecimal() for label in labels)


_ORIENTATIONS: dict[str, Callable[[Document, DataFile], list[Any] | None]] = {
    "as a page of the hub's server": _server_page,
    "as pandas writes it with orient='split'": _split_frame,
    "by splits": _splits,
    "by columns": _columns,
    "from the rows within the object": _container,
    "as pandas writes it, by columns or by index": _frame,
}
