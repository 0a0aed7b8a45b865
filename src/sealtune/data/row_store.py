"""Loaded rows in two memory-mapped Arrow files: memory holds only what is accessed.

``rows.arrow`` holds the rows as they were read; ``index.arrow`` their ids, which depend on all rows.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sealtune.core.json_rows import JsonRow
from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Drop, Message, Sample

SAMPLE, DROP, NOT_TAKEN = 0, 1, 2
"""Kinds of rows: usable, unusable, and beyond the ``fraction`` of the dataset."""

BLOCKS = pa.schema(
    {
        "own_id": pa.string(),
        "content_hash": pa.uint64(),
        "messages": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "row": pa.binary(),
    }
)
T = TypeVar("T", Sample, Drop)


@dataclass(frozen=True, slots=True)
class Rows:
    """Usable and unusable rows, both in input order; ``digest`` changes if any sample does."""

    samples: Samples
    drops: Drops
    digest: str

    def positions(self, ids: Iterable[str]) -> IntArray:
        """The positions (K,) of these samples among all rows read."""
        return self.samples.positions[self.samples.ids.index_in(ids)]


def stem_of(own_id: str | None, content_hash: int) -> str:
    """The id of a row, unless other rows have it too: its own, else the hash of its content."""
    return own_id or f"{content_hash:016x}"


class Blocks:
    """The blocks of ``rows.arrow``, and the position of the first row of each."""

    def __init__(self, content: Any) -> None:
        file = pa.ipc.open_file(content)
        self.blocks = [file.get_batch(i) for i in range(file.num_record_batches)]
        self.starts = np.cumsum([0, *(len(block) for block in self.blocks)])

    def at(self, position: int) -> tuple[int, Any]:
        """The block that contains a row, and the position of its first row."""
        number = int(np.searchsorted(self.starts, position, side="right")) - 1
        return int(self.starts[number]), self.blocks[number]

    def stem(self, position: int) -> str:
        """The stem of a row."""
        start, block = self.at(position)
        return stem_of(*(block.column(name)[position - start].as_py() for name in ("own_id", "content_hash")))

    def stems(self) -> Iterator[str]:
        """The stems of all rows."""
        for block in self.blocks:
            yield from map(stem_of, block.column("own_id").to_pylist(), block.column("content_hash").to_pylist())

    def messages(self) -> Iterator[str | None]:
        """The messages of all rows as JSON."""
        for block in self.blocks:
            yield from block.column("messages").to_pylist()


class StoredRows(Sequence[T], Generic[T]):
    """Rows of one kind, created on access. ``positions`` (N,) are their positions among all rows read."""

    COLUMNS: tuple[str, ...]

    def __init__(self, blocks: Blocks, positions: IntArray, ids: StringArray, sources: StringArray) -> None:
        self.blocks = blocks
        self.positions = positions
        self.ids = ids
        self.sources = sources

    def make(self, position: int, row_id: str, source: str, *values: Any) -> T:
        """The row with these values of COLUMNS."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.positions)

    def content_hashes(self) -> npt.NDArray[np.uint64]:
        """The hash of each row's content, (N,)."""
        found: list[npt.NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        found += [np.asarray(block.column("content_hash"), np.uint64) for block in self.blocks.blocks]
        return np.concatenate(found)[self.positions]

    def take(self, rows: IntArray) -> Self:
        """The rows at these indices, which must ascend."""
        return type(self)(self.blocks, self.positions[rows], self.ids.take(rows), self.sources.take(rows))

    def __iter__(self) -> Iterator[T]:
        for start, block in zip(self.blocks.starts, self.blocks.blocks, strict=False):
            low, high = np.searchsorted(self.positions, [start, start + len(block)])
            yield from self._read(block, int(start), int(low), int(high))

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        k = range(len(self))[i]
        start, block = self.blocks.at(int(self.positions[k]))
        return next(self._read(block, start, k, k + 1))

    def _read(self, block: Any, start: int, low: int, high: int) -> Iterator[T]:
        """The rows ``low`` to ``high``, all in one block."""
        positions = self.positions[low:high]
        rows = pa.array(positions - start)
        columns = (block.column(name).take(rows).to_pylist() for name in self.COLUMNS)
        return map(self.make, positions.tolist(), self.ids[low:high], self.sources[low:high], *columns)


class Samples(StoredRows[Sample]):
    """Usable rows."""

    COLUMNS = ("messages", "row")

    def make(self, position: int, row_id: str, source: str, *values: Any) -> Sample:
        """The row with its conversation."""
        content, line = values
        found = json.loads(content)
        turns, tools = (found, ()) if isinstance(found, list) else (found["turns"], tuple(found["tools"]))
        return Sample(row_id, tuple(Message(*turn) for turn in turns), source, JsonRow(line), position, tools)


class Drops(StoredRows[Drop]):
    """Rows that cannot be used."""

    COLUMNS = ("reason", "detail", "row")

    def make(self, position: int, row_id: str, source: str, *values: Any) -> Drop:
        """The row with the reason."""
        reason, detail, line = values
        return Drop(row_id, source, reason, detail, JsonRow(line), position)


def open_rows(folder: Path) -> Rows:
    """The rows that were written to this folder. Raises OSError or ValueError if the files are missing or damaged."""
    content, index = (pa.memory_map(str(folder / f"{name}.arrow")) for name in ("rows", "index"))
    blocks = Blocks(content)
    for block in blocks.blocks:  # invalid offsets would crash the process
        block.validate(full=True)
    return open_blocks(blocks, index)


def open_blocks(blocks: Blocks, content: Any) -> Rows:
    """The rows of these blocks; ``content`` is that of ``index.arrow``. Raises ValueError if it is damaged."""
    file = pa.ipc.open_file(content)
    index = file.get_batch(0)
    index.validate(full=True)
    ids, sources = StringArray(index.column("id")), StringArray(index.column("source"))
    kinds = np.asarray(index.column("kind"))
    samples, drops = (_select(np.flatnonzero(kinds == kind), ids, sources) for kind in (SAMPLE, DROP))
    return Rows(Samples(blocks, *samples), Drops(blocks, *drops), file.schema.metadata[b"digest"].decode())


def _select(positions: IntArray, ids: StringArray, sources: StringArray) -> tuple[IntArray, StringArray, StringArray]:
    if len(positions) == len(ids):
        return positions, ids, sources
    return positions, ids.take(positions), sources.take(positions)


def drop(sample: Sample, reason: str, detail: str) -> Drop:
    """The sample as an unused row."""
    return Drop(sample.id, sample.source, reason, detail, sample.row, sample.position)


class UnusedRows(Collection[Drop]):
    """Several collections of unused rows merged into one. All are in input order."""

    def __init__(self, *parts: Collection[Drop]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Drop]:
        return heapq.merge(*self.parts, key=attrgetter("position"))

    def __contains__(self, row: object) -> bool:
        return any(row in part for part in self.parts)


class UntokenizedRows(Collection[Drop]):
    """Usable rows that got no tokens.

    Args:
        samples: all usable rows.
        indices: the rows without tokens, (K,), ascending.
        reasons: K slugs.
        details: K sentences.
    """

    def __init__(self, samples: Samples, indices: IntArray, reasons: StringArray, details: StringArray) -> None:
        self.samples = samples.take(indices)
        self.reasons = reasons
        self.details = details

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Drop]:
        return map(drop, self.samples, self.reasons, self.details)

    def __contains__(self, row: object) -> bool:
        return any(row == unused for unused in self)
