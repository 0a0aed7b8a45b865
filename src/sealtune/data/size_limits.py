"""Limits on how much a file may grow when it is read, against decompression bombs.

Parquet and Arrow compress their columns (zstd alone shrinks zeros ten-thousandfold), and dictionaries, views and runs
repeat a value without storing it again. The size that a file claims is therefore checked before it is decompressed, and
the data is counted before it becomes Python rows. Compressed text is counted while it is decompressed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sealtune.core.errors import UserError

MIN_LIMIT = 2**30
"""Bytes that any file may grow to, however small: every machine that trains a model has them."""
MAX_RATIO = 100
"""How many times its size a larger file may grow to. Text compresses 3 to 10 times, many repeated columns 50."""
ROW_BYTES = 64
"""The minimum cost of a row, even if all its columns are empty."""

_FRAME = re.compile(rb"[\x1e\x22-\x28]\xb5\x2f\xfd|\x04\x22\x4d\x18|[\x50-\x5f]\x2a\x4d\x18")
"""How a zstd, an LZ4 or a skippable frame begins."""
_PREFIX_BYTES = 8


class Allowance:
    """The bytes that a file, or all files of a folder, may still grow by.

    Args:
        path: The file or folder, for the error message.
        stored: Its bytes on disk.
    """

    def __init__(self, path: Path | str, stored: int) -> None:
        self.path = path
        self.limit = self.left = max(MIN_LIMIT, MAX_RATIO * stored)

    def require(self, claimed: int) -> None:
        """Raise UserError if a file claims to hold more bytes than are left."""
        if claimed > self.left:
            raise self._too_large()

    def spend(self, read: int) -> None:
        """Count bytes that were read. Raises UserError if there were more than the limit."""
        self.left -= read
        if self.left < 0:
            raise self._too_large()

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches while they stay within the limit. Raises UserError."""
        for batch in batches:
            self.spend(weigh(batch))
            yield batch

    def _too_large(self) -> UserError:
        return UserError(
            f"{self.path}: grows to more than {self.limit / 2**30:,.0f} GiB when it is decompressed ({MAX_RATIO} times "
            "its size); if this is expected, write it without compression, or as JSONL"
        )


def weigh(batch: Any) -> int:
    """Bytes of the rows that a record batch represents."""
    return int(ROW_BYTES * batch.num_rows) + sum(map(_weigh, batch.columns))


def _weigh(array: Any) -> int:
    """Bytes of the values of an array, with repetitions."""
    from pyarrow import types

    kind = array.type
    if not len(array):
        return 0
    if types.is_dictionary(kind) and _is_text(kind.value_type):
        return _decoded_bytes(array)
    if types.is_struct(kind):
        return sum(map(_weigh, array.flatten()))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return 8 * len(array) + _weigh(array.flatten())
    if types.is_map(kind):
        return int(8 * len(array) + _weigh(array.keys) + _weigh(array.items))
    if types.is_string_view(kind) or types.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1], "<i4").reshape(-1, 4)  # column 0 is the length
        return int(views[array.offset : array.offset + len(array), 0].clip(0).sum(dtype=np.int64))
    if _is_text(kind) or _is_stored_once(kind):
        return int(array.nbytes)
    return int(len(array) * array.nbytes)  # runs, list views, unions: rare, and any value may be repeated


def _decoded_bytes(array: Any) -> int:
    """Bytes of the texts of a dictionary array after decoding."""
    import pyarrow.compute as pc

    sizes = pc.cast(pc.binary_length(array.dictionary), "int64")
    return int(pc.sum(sizes.take(array.indices)).as_py() or 0)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    short = types.is_string(kind) or types.is_binary(kind)
    return bool(short or types.is_large_string(kind) or types.is_large_binary(kind))


def _is_stored_once(kind: Any) -> bool:
    """Whether the array stores every value separately."""
    from pyarrow import types

    return bool(types.is_primitive(kind) or types.is_fixed_size_binary(kind) or types.is_null(kind))


def claimed_bytes(messages: Iterable[Any]) -> int:
    """Decompressed bytes that Arrow IPC messages claim for their compressed buffers; 0 if none is compressed.

    Such a buffer begins with its decompressed length, which Arrow allocates before it decompresses anything.
    """
    import pyarrow as pa

    total = 0
    try:
        for message in messages:
            total += _claimed_by_message(message.metadata, memoryview(message.body))
    except (pa.ArrowException, OSError, ValueError):
        pass  # a damaged file: reading it reports the error
    return total


def _claimed_by_message(metadata: Any, body: memoryview) -> int:
    """The sum over all buffers that the metadata lists; one that is listed twice is decompressed twice.

    pyarrow does not expose the list, a run of (start, length) pairs of integers that begins at some multiple of four.
    """
    claims = []
    for phase in range(0, 16, 4):
        spans = np.frombuffer(metadata, "<i8", (metadata.size - phase) // 16 * 2, phase).reshape(-1, 2)
        starts, lengths = spans[:, 0], spans[:, 1]
        fits = (starts >= 0) & (lengths > _PREFIX_BYTES) & (lengths <= len(body)) & (starts <= len(body) - lengths)
        claims.append(sum(_claimed_length(body, start) for start in starts[fits].tolist()))
    return max(claims)


def _claimed_length(body: memoryview, start: int) -> int:
    """The length that a compressed buffer claims; 0 if no compressed buffer starts here."""
    prefix = body[start : start + _PREFIX_BYTES]
    frame = body[start + _PREFIX_BYTES : start + _PREFIX_BYTES + 4]
    return max(0, int.from_bytes(prefix, "little", signed=True)) if _FRAME.match(frame) else 0
