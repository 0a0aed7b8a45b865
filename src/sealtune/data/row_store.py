"""Rows that came through the door, in two Arrow files that are mapped: memory holds what is looked at.

``rows.arrow`` holds what was read, written as it comes; ``index.arrow`` the ids, which are known when all was read.
Without a folder both lie in memory.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np
import pyarrow as pa

from sealtune.core.json_rows import JsonRow
from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Drop, Message, Sample
from sealtune.data.ids import hash_text, name_repeats

BLOCK_ROWS, BLOCK_BYTES = 4096, 2**24
"""A block is written once it holds so many rows, or so many bytes of them."""

SAMPLE, DROP, LEFT_OUT = 0, 1, 2
"""Kinds of rows: usable, not usable, and beyond the fraction that was asked for."""

BLOCKS = pa.schema(
    {
        "own": pa.string(),
        "content": pa.uint64(),
        "messages": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "row": pa.binary(),
    }
)
T = TypeVar("T", Sample, Drop)


@dataclass(frozen=True, slots=True)
class Rows:
    """What came through the door and what did not, both in input order; ``digest`` changes with any sample."""

    samples: Samples
    drops: Drops
    digest: str

    def positions(self, ids: Iterable[str]) -> IntArray:
        """The place of each of these samples (K,) among all rows read."""
        return self.samples.places[self.samples.ids.index_in(ids)]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as read: its own id if it has one, the hash of its content, and its messages as JSON or its fault."""

    own: str | None
    content: int
    source: str
    messages: str | None
    fault: tuple[str, str] | tuple[None, None]
    line: bytes

    @property
    def stem(self) -> str:
        """What the row is called unless others are called so, too."""
        return self.own or f"{self.content:016x}"


class RowWriter:
    """Takes entries one by one; what stays in memory of each is 21 bytes, and while they are named some more."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.sinks = {name: _open_sink(folder, name) for name in ("rows", "index")}
        self.writer = pa.ipc.new_file(self.sinks["rows"], BLOCKS)
        self.block: list[tuple[Any, ...]] = []
        self.bytes = 0
        self.stems, self.contents = array("Q"), array("Q")
        self.sources: dict[str, int] = {}
        self.codes, self.kinds = array("i"), array("B")
        self.fractions: list[tuple[int, float]] = []

    def __len__(self) -> int:
        return len(self.kinds)

    def begin(self, fraction: float) -> None:
        """The rows that follow are of a data set of which this share is taken."""
        self.fractions.append((len(self.kinds), fraction))

    def add(self, entry: Entry) -> None:
        """Take the next row."""
        self.stems.append(hash_text(entry.stem))
        self.contents.append(entry.content)
        self.codes.append(self.sources.setdefault(entry.source, len(self.sources)))
        self.kinds.append(SAMPLE if entry.messages is not None else DROP)
        self.block.append((entry.own, entry.content, entry.messages, *entry.fault, entry.line))
        self.bytes += len(entry.line)
        if len(self.block) == BLOCK_ROWS or self.bytes > BLOCK_BYTES:
            self._write_block()

    def _write_block(self) -> None:
        columns = zip(zip(*self.block, strict=True), BLOCKS, strict=True)
        arrays = [pa.array(values, field.type) for values, field in columns]
        self.writer.write_batch(pa.record_batch(arrays, schema=BLOCKS))
        self.block, self.bytes = [], 0

    def finish(self) -> Rows:
        """Give every row its name and open what was written."""
        if self.block:
            self._write_block()
        self.writer.close()
        blocks = Blocks(_close_sink(self.folder, "rows", self.sinks["rows"]))
        kinds = np.array(self.kinds, np.uint8)
        ids, digest = self._name(blocks, kinds)
        sources = StringArray.from_codes(np.array(self.codes, np.int32), list(self.sources))
        index = pa.record_batch({"id": ids, "source": sources.values, "kind": kinds})
        schema = index.schema.with_metadata({"digest": digest})
        with pa.ipc.new_file(self.sinks["index"], schema) as writer:
            writer.write_batch(index.cast(schema))
        return _open(blocks, _close_sink(self.folder, "index", self.sinks["index"]))

    def _name(self, blocks: Blocks, kinds: Any) -> tuple[Any, str]:
        """Ids of all rows as an Arrow array, and the digest of the samples; marks in ``kinds`` what is left out."""
        stems, contents = (np.array(values, np.uint64) for values in (self.stems, self.contents))
        named = name_repeats(stems, contents, blocks.stem)
        digest = blake2b(digest_size=16)
        shares = iter([*self.fractions, (len(kinds), 1.0)])
        share, (next_start, next_share) = 1.0, next(shares)

        def names() -> Iterator[str]:
            nonlocal share, next_start, next_share
            for i, (stem, messages) in enumerate(blocks.stems()):
                while i == next_start:
                    share, (next_start, next_share) = next_share, next(shares)
                name = named.get(i, stem)
                if share < 1 and share_of(name) >= share:
                    kinds[i] = LEFT_OUT
                elif messages is not None:
                    digest.update(f"{name}\0{messages}\0".encode())
                yield name

        return StringArray.of(names()).values, digest.hexdigest()


class Blocks:
    """The blocks of ``rows.arrow``, and where each starts."""

    def __init__(self, content: Any) -> None:
        file = pa.ipc.open_file(content)
        self.blocks = [file.get_batch(i) for i in range(file.num_record_batches)]
        self.starts = np.cumsum([0, *(len(block) for block in self.blocks)])

    def at(self, place: int) -> tuple[int, Any]:
        """The block that holds a row, and the place of its first one."""
        number = int(np.searchsorted(self.starts, place, side="right")) - 1
        return int(self.starts[number]), self.blocks[number]

    def stem(self, place: int) -> str:
        """The stem of a row."""
        start, block = self.at(place)
        own, content = (block.column(name)[place - start].as_py() for name in ("own", "content"))
        return own or f"{content:016x}"

    def stems(self) -> Iterator[tuple[str, str | None]]:
        """Stem and messages of each row."""
        for block in self.blocks:
            columns = (block.column(name).to_pylist() for name in ("own", "content", "messages"))
            for own, content, messages in zip(*columns, strict=True):
                yield own or f"{content:016x}", messages


class Stored(Sequence[T], Generic[T]):
    """Rows of one kind, made when they are asked for. ``places`` (N,) are their places among all rows read."""

    COLUMNS: tuple[str, ...]

    def __init__(self, blocks: Blocks, places: IntArray, ids: StringArray, sources: StringArray) -> None:
        self.blocks = blocks
        self.places = places
        self.ids = ids
        self.sources = sources

    def make(self, place: int, row_id: str, source: str, *values: Any) -> T:
        """The row whose COLUMNS hold these values."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: IntArray) -> Self:
        """Those at these positions, which rise."""
        return type(self)(self.blocks, self.places[rows], self.ids.take(rows), self.sources.take(rows))

    def __iter__(self) -> Iterator[T]:
        for start, block in zip(self.blocks.starts, self.blocks.blocks, strict=False):
            low, high = np.searchsorted(self.places, [start, start + len(block)])
            yield from self._read(block, int(start), int(low), int(high))

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        number = range(len(self))[i]
        start, block = self.blocks.at(int(self.places[number]))
        return next(self._read(block, start, number, number + 1))

    def _read(self, block: Any, start: int, low: int, high: int) -> Iterator[T]:
        """Those from ``low`` to ``high``, which lie in one block."""
        places = self.places[low:high]
        rows = pa.array(places - start)
        columns = (block.column(name).take(rows).to_pylist() for name in self.COLUMNS)
        return map(self.make, places.tolist(), self.ids[low:high], self.sources[low:high], *columns)


class Samples(Stored[Sample]):
    """Usable rows."""

    COLUMNS = ("messages", "row")

    def make(self, place: int, row_id: str, source: str, *values: Any) -> Sample:
        """The row with its conversation."""
        messages, line = values
        return Sample(row_id, tuple(Message(*turn) for turn in json.loads(messages)), source, JsonRow(line), place)


class Drops(Stored[Drop]):
    """Rows that cannot be used."""

    COLUMNS = ("reason", "detail", "row")

    def make(self, place: int, row_id: str, source: str, *values: Any) -> Drop:
        """The row with its fault."""
        reason, detail, line = values
        return Drop(row_id, source, reason, detail, JsonRow(line), place)


def open_rows(folder: Path) -> Rows:
    """What a writer left in this folder. Raises OSError or ValueError where it is not that."""
    content, index = (pa.memory_map(str(folder / f"{name}.arrow")) for name in ("rows", "index"))
    blocks = Blocks(content)
    for block in blocks.blocks:  # broken offsets would end the process when they are followed
        block.validate(full=True)
    return _open(blocks, index)


def share_of(name: str) -> float:
    """Where an id falls in [0, 1): the same for every order of the rows."""
    digest = blake2b(name.encode(), digest_size=8, person=b"fraction").digest()
    return int.from_bytes(digest, "big") / 2**64


def _open(blocks: Blocks, content: Any) -> Rows:
    file = pa.ipc.open_file(content)
    index = file.get_batch(0)
    index.validate(full=True)
    ids, sources = StringArray(index.column("id")), StringArray(index.column("source"))
    kinds = np.asarray(index.column("kind"))
    samples, drops = (_choose(np.flatnonzero(kinds == kind), ids, sources) for kind in (SAMPLE, DROP))
    return Rows(Samples(blocks, *samples), Drops(blocks, *drops), file.schema.metadata[b"digest"].decode())


def _choose(places: IntArray, ids: StringArray, sources: StringArray) -> tuple[IntArray, StringArray, StringArray]:
    if len(places) == len(ids):
        return places, ids, sources
    return places, ids.take(places), sources.take(places)


def _open_sink(folder: Path | None, name: str) -> Any:
    return pa.BufferOutputStream() if folder is None else pa.OSFile(str(folder / f"{name}.arrow"), "wb")


def _close_sink(folder: Path | None, name: str, sink: Any) -> Any:
    if folder is None:
        return sink.getvalue()
    sink.close()
    return pa.memory_map(str(folder / f"{name}.arrow"))
