"""Writes loaded rows to the files of ``row_store``, or to memory if there is no folder."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sealtune.core.string_array import StringArray
from sealtune.data.ids import hash_text, name_repeats
from sealtune.data.row_store import BLOCKS, DROP, NOT_TAKEN, SAMPLE, Blocks, Rows, open_blocks, stem_of

BLOCK_ROWS, BLOCK_BYTES = 4096, 2**24
"""A block is written when it has this many rows or bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as read: ``messages`` is its conversation as JSON; if there is none, ``problem`` is (reason, detail)."""

    own_id: str | None
    content_hash: int
    source: str
    messages: str | None
    problem: tuple[str, str] | tuple[None, None]
    line: bytes

    @property
    def stem(self) -> str:
        """The row's id, unless other rows have it too."""
        return stem_of(self.own_id, self.content_hash)


class RowWriter:
    """Stores entries one by one. Each takes 21 bytes of memory, and about twice that in ``finish``."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.sinks = {name: _open_sink(folder, name) for name in ("rows", "index")}
        self.writer = pa.ipc.new_file(self.sinks["rows"], BLOCKS)
        self.block: list[tuple[Any, ...]] = []
        self.block_bytes = 0
        self.stem_hashes, self.content_hashes = array("Q"), array("Q")
        self.sources: dict[str, int] = {}
        self.source_codes, self.kinds = array("i"), array("B")
        self.datasets: list[tuple[int, float]] = []
        """First row and fraction of each dataset."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self.sinks.values():
            sink.close()

    def __len__(self) -> int:
        return len(self.kinds)

    def begin(self, fraction: float) -> None:
        """Start a dataset of which this fraction is taken."""
        self.datasets.append((len(self), fraction))

    def add(self, entry: Entry) -> None:
        """Add the next row."""
        self.stem_hashes.append(hash_text(entry.stem))
        self.content_hashes.append(entry.content_hash)
        self.source_codes.append(self.sources.setdefault(entry.source, len(self.sources)))
        self.kinds.append(SAMPLE if entry.messages is not None else DROP)
        self.block.append((entry.own_id, entry.content_hash, entry.messages, *entry.problem, entry.line))
        self.block_bytes += len(entry.line)
        if len(self.block) == BLOCK_ROWS or self.block_bytes > BLOCK_BYTES:
            self._write_block()

    def _write_block(self) -> None:
        columns = zip(zip(*self.block, strict=True), BLOCKS, strict=True)
        arrays = [pa.array(values, field.type) for values, field in columns]
        self.writer.write_batch(pa.record_batch(arrays, schema=BLOCKS))
        self.block, self.block_bytes = [], 0

    def finish(self) -> Rows:
        """Give every row its id, and open what was written."""
        if self.block:
            self._write_block()
        self.writer.close()
        blocks = Blocks(_close_sink(self.folder, "rows", self.sinks["rows"]))
        ids = self._name(blocks)
        kinds = self._mark_not_taken(ids)
        sources = StringArray.from_codes(np.array(self.source_codes, np.int32), list(self.sources))
        index = pa.record_batch({"id": ids.values, "source": sources.values, "kind": kinds})
        schema = index.schema.with_metadata({"digest": _digest(ids, kinds, blocks)})
        with pa.ipc.new_file(self.sinks["index"], schema) as writer:
            writer.write_batch(index.cast(schema))
        return open_blocks(blocks, _close_sink(self.folder, "index", self.sinks["index"]))

    def _name(self, blocks: Blocks) -> StringArray:
        """The ids of all rows, (N,)."""
        stem_hashes, content_hashes = (np.array(a, np.uint64) for a in (self.stem_hashes, self.content_hashes))
        repeats = name_repeats(stem_hashes, content_hashes, blocks.stem)
        return StringArray.of(repeats.get(i, stem) for i, stem in enumerate(blocks.stems()))

    def _mark_not_taken(self, ids: StringArray) -> npt.NDArray[np.uint8]:
        """The kinds of all rows, (N,)."""
        kinds = np.array(self.kinds, np.uint8)
        for (start, fraction), (stop, _) in pairwise([*self.datasets, (len(self), 1.0)]):
            if fraction < 1:
                taken = (unit_hash(row_id) < fraction for row_id in ids[start:stop])
                kinds[start:stop][~np.fromiter(taken, np.bool_, stop - start)] = NOT_TAKEN
        return kinds


def _digest(ids: StringArray, kinds: npt.NDArray[np.uint8], blocks: Blocks) -> str:
    digest = blake2b(digest_size=16)
    for row_id, kind, messages in zip(ids, kinds.data, blocks.messages(), strict=True):
        if kind == SAMPLE:
            digest.update(f"{row_id}\0{messages}\0".encode())
    return digest.hexdigest()


def unit_hash(row_id: str) -> float:
    """A hash of an id in [0, 1); rows below the ``fraction`` are taken, whatever the order of the rows."""
    digest = blake2b(row_id.encode(), digest_size=8, person=b"fraction").digest()
    return int.from_bytes(digest, "big") / 2**64


def _open_sink(folder: Path | None, name: str) -> Any:
    return pa.BufferOutputStream() if folder is None else pa.OSFile(str(folder / f"{name}.arrow"), "wb")


def _close_sink(folder: Path | None, name: str, sink: Any) -> Any:
    if folder is None:
        return sink.getvalue()
    sink.close()
    return pa.memory_map(str(folder / f"{name}.arrow"))
