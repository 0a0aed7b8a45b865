"""How much a columnar file may grow when it is read: a small file that unpacks to more is not data but a bomb.

Parquet and Arrow pack their columns (zstd alone shrinks zeros ten-thousandfold), and dictionaries, views and runs
repeat a value without storing it again. So what a file says of its size is checked before it is unpacked, and what came
out is counted before rows are made of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sealtune.core.errors import UserError

FREE = 2**30
"""Bytes that any file may grow to: every machine that trains a model has them."""
RATIO = 100
"""How many times its size a larger file may grow to. Text packs 3 to 10 times, with many repeated columns 50."""
ROW_BYTES = 64
"""What a row costs at the least, be all its columns empty."""


class Allowance:
    """What is left of what a file may grow to."""

    def __init__(self, path: Path | str, stored: int) -> None:
        """``stored``: bytes on disk."""
        self.path = path
        self.limit = self.left = max(FREE, RATIO * stored)

    def require(self, claimed: int) -> None:
        """Raise UserError where the file says that it holds more than it may grow to."""
        if claimed > self.limit:
            raise self._too_much()

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, as long as they stay within the limit. Raises UserError."""
        for batch in batches:
            self.left -= weigh(batch)
            if self.left < 0:
                raise self._too_much()
            yield batch

    def _too_much(self) -> UserError:
        return UserError(
            f"{self.path}: grows to more than {self.limit / 2**30:,.0f} GiB when it is unpacked ({RATIO} times its "
            "size); if it is what you expect, write it without compression, or as JSONL"
        )


def weigh(batch: Any) -> int:
    """Bytes of the rows that a record batch stands for."""
    return int(ROW_BYTES * batch.num_rows) + sum(map(_weigh, batch.columns))


def _weigh(array: Any) -> int:
    """Bytes of the values of an array, each as often as it occurs."""
    from pyarrow import types

    kind = array.type
    if not len(array):
        return 0
    if types.is_dictionary(kind) and _is_text(kind.value_type):
        return _repeated(array)
    if types.is_struct(kind):
        return sum(map(_weigh, array.flatten()))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return 8 * len(array) + _weigh(array.flatten())
    if types.is_map(kind):
        return int(8 * len(array) + _weigh(array.keys) + _weigh(array.items))
    if types.is_string_view(kind) or types.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1], "<i4").reshape(-1, 4)  # the first of each four is the length
        return int(views[array.offset : array.offset + len(array), 0].clip(0).sum(dtype=np.int64))
    if _is_text(kind) or _is_plain(kind):
        return int(array.nbytes)
    return int(len(array) * array.nbytes)  # runs, views of lists, unions: rare, and any value may be repeated


def _repeated(array: Any) -> int:
    """Bytes of the texts of a dictionary array, each as often as it occurs."""
    import pyarrow.compute as pc

    sizes = pc.cast(pc.binary_length(array.dictionary), "int64")
    return int(pc.sum(sizes.take(array.indices)).as_py() or 0)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    short = types.is_string(kind) or types.is_binary(kind)
    return bool(short or types.is_large_string(kind) or types.is_large_binary(kind))


def _is_plain(kind: Any) -> bool:
    """Whether every value takes its own place."""
    from pyarrow import types

    return bool(types.is_primitive(kind) or types.is_fixed_size_binary(kind) or types.is_null(kind))


def claimed_by_arrow(content: Any) -> int:
    """Bytes that the compressed buffers of an Arrow file of either kind say they hold; 0 where there are none.

    Each such buffer begins with its length before compression, which Arrow sets aside before it unpacks anything.
    """
    import pyarrow as pa

    content.seek(8 if content.read(6) == b"ARROW1" else 0)
    total = 0
    try:
        for message in pa.ipc.MessageReader.open_stream(content):
            total += _claimed(message.metadata.to_pybytes(), message.body)
    except (pa.ArrowException, OSError, struct.error, ValueError):
        pass  # a broken file; whoever reads it says so
    return total


def _claimed(metadata: bytes, body: Any) -> int:
    """The sum over the buffers of a message, read from its flatbuffer by hand: the library does not tell."""
    message = _Table(metadata, *struct.unpack_from("<I", metadata))
    batch = message.table(2)  # Message.header
    if batch is not None and message.number(1, "B") == 2:  # a DictionaryBatch, whose data is a record batch
        batch = batch.table(1)
    elif message.number(1, "B") != 3:  # not a RecordBatch
        return 0
    if batch is None or batch.table(3) is None:  # RecordBatch.compression
        return 0
    spans = [span for span in batch.structs(2, "<qq") if span[1] > 8]  # RecordBatch.buffers: offset, length
    return sum(max(0, *struct.unpack_from("<q", body, offset)) for offset, _ in spans)


class _Table:
    """A table of a flatbuffer: fields by their number in the schema."""

    def __init__(self, content: bytes, at: int) -> None:
        self.content = content
        self.at = at
        self.fields = at - struct.unpack_from("<i", content, at)[0]

    def _place(self, field: int) -> int | None:
        (size,) = struct.unpack_from("<H", self.content, self.fields)
        inside = 4 + 2 * field < size
        offset = struct.unpack_from("<H", self.content, self.fields + 4 + 2 * field)[0] if inside else 0
        return self.at + offset if offset else None

    def number(self, field: int, form: str) -> int:
        """A number; 0 where it is absent."""
        place = self._place(field)
        return 0 if place is None else int(struct.unpack_from(f"<{form}", self.content, place)[0])

    def table(self, field: int) -> _Table | None:
        """The table that a field points to."""
        place = self._place(field)
        return None if place is None else _Table(self.content, place + self.number(field, "I"))

    def structs(self, field: int, form: str) -> Iterator[tuple[int, ...]]:
        """The structs of a vector."""
        place = self._place(field)
        if place is None:
            return
        start = place + self.number(field, "I")
        (count,) = struct.unpack_from("<I", self.content, start)
        for i in range(count):
            yield struct.unpack_from(form, self.content, start + 4 + i * struct.calcsize(form))
