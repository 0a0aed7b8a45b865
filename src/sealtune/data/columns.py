"""Columns of Arrow tables that hold the same rows in another shape: turns as a struct of lists, and text as bytes.

What to do is decided by the types, once per table; a table without such columns passes as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sealtune.core.errors import UserError

_WHO, _WHAT = {"role", "from"}, {"content", "value"}


def make_to_rows(path: Path | str) -> Callable[[Any], list[dict[str, Any]]]:
    """A function from the batches of a table, in their order, to rows; it counts them for error messages.

    A struct of lists with the keys of turns becomes a list of objects, and a map an object. A column of bytes becomes
    text if those of the first batch that has any are UTF-8.

    Raises:
        UserError: the lists of a row differ in length, or bytes are not UTF-8 although those before them were.
    """
    return _Converter(path).to_rows


class _Converter:
    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.done = 0
        self.plain: Any = None
        """The schema of a table that needs no conversion, once it is known."""
        self.is_text: dict[str, bool] = {}

    def to_rows(self, batch: Any) -> list[dict[str, Any]]:
        if self.plain is not None and batch.schema.equals(self.plain):
            rows: list[dict[str, Any]] = batch.to_pylist()
        elif any(_has_map(field.type) for field in batch.schema):
            rows = self._convert(batch).to_pylist(maps_as_pydicts="strict")  # several times slower
        else:
            rows = self._convert(batch).to_pylist()
        self.done += len(rows)
        return rows

    def _convert(self, batch: Any) -> Any:
        is_plain = True
        for number, field in enumerate(batch.schema):
            target = _as_text(field.type)
            if target is None and not _is_turns(field.type):
                continue
            is_plain = False
            column = _one_chunk(batch.column(number))
            if target is not None:
                column = self._to_text(column, field.name, target)
            if _is_turns(column.type):
                column = self._to_list(column, field.name)
            batch = batch.set_column(number, field.name, column)
        if is_plain and not any(_has_map(field.type) for field in batch.schema):
            self.plain = batch.schema
        return batch

    def _to_text(self, column: Any, name: str, target: Any) -> Any:
        import pyarrow as pa

        if self.is_text.get(name) is False:
            return column
        try:
            text = column.cast(target)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            if name in self.is_text:
                raise UserError(
                    f"{self.path}, row {self.done + 1} or one of the next: column {name!r} is not UTF-8 text, but the "
                    "rows before are; write the column as text"
                ) from None
            self.is_text[name] = False
            return column
        if _has_bytes(column):
            self.is_text[name] = True
        return text

    def _to_list(self, column: Any, name: str) -> Any:
        """A struct of lists as a list of structs."""
        import pyarrow as pa
        import pyarrow.compute as pc

        parts = column.flatten()  # a null struct has null lists
        lengths = [pc.list_value_length(part).cast("int64") for part in parts]
        for other in lengths[1:]:
            same = pc.or_kleene(pc.equal(lengths[0], other), pc.and_(pc.is_null(lengths[0]), pc.is_null(other)))
            if (wrong := pc.index(pc.fill_null(same, False), False).as_py()) >= 0:
                keys = ", ".join(field.name for field in column.type)
                raise UserError(
                    f"{self.path}, row {self.done + wrong + 1}: the lists in {name!r} ({keys}) differ in length; "
                    "correct the row"
                )
        ends = pc.cumulative_sum(pc.fill_null(lengths[0], 0))
        offsets = pa.concat_arrays([pa.array([0], "int64"), ends])
        turns = pa.StructArray.from_arrays([part.flatten() for part in parts], [field.name for field in column.type])
        return pa.LargeListArray.from_arrays(offsets, turns, mask=pc.is_null(lengths[0]))


def _is_turns(kind: Any) -> bool:
    """Whether a type is a struct of lists with the keys of turns."""
    from pyarrow import types

    if not types.is_struct(kind) or not kind.num_fields:
        return False
    names = {field.name for field in kind}
    lists = all(types.is_list(field.type) or types.is_large_list(field.type) for field in kind)
    return bool(lists and names & _WHO and names & _WHAT)


def _has_map(kind: Any) -> bool:
    from pyarrow import types

    if types.is_map(kind):
        return True
    return any(_has_map(kind.field(i).type) for i in range(kind.num_fields)) if types.is_nested(kind) else False


def _as_text(kind: Any) -> Any:
    """The type with text in place of bytes, at any depth; None if it has no bytes."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_binary(kind) or types.is_binary_view(kind):
        return pa.string()
    if types.is_large_binary(kind):
        return pa.large_string()
    if types.is_list(kind) or types.is_large_list(kind):
        inner = _as_text(kind.value_type)
        make = pa.list_ if types.is_list(kind) else pa.large_list
        return inner and make(kind.value_field.with_type(inner))
    if types.is_struct(kind):
        inner = [_as_text(field.type) for field in kind]
        fields = [field.with_type(new) if new else field for field, new in zip(kind, inner, strict=True)]
        return pa.struct(fields) if any(inner) else None
    return None


def _has_bytes(column: Any) -> bool:
    """Whether any value of bytes in a column is not empty."""
    import pyarrow.compute as pc
    from pyarrow import types

    kind = column.type
    if types.is_struct(kind):
        return any(map(_has_bytes, column.flatten()))
    if types.is_list(kind) or types.is_large_list(kind):
        return _has_bytes(column.flatten())
    return _as_text(kind) is not None and bool(pc.sum(pc.binary_length(column.cast("large_binary"))).as_py())


def _one_chunk(column: Any) -> Any:
    import pyarrow as pa

    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
