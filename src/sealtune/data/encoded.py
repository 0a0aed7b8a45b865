"""Rows as token ids, many at once, in memory or in mapped files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import IntArray, StringArray


@dataclass(frozen=True, slots=True)
class Encoded:
    """N rows as token ids, laid end to end: row i is ``tokens[bounds[i]:bounds[i + 1]]``.

    ``tokens`` int32 (T,); ``mask`` bool (T,), true where a token is learned (response tokens and the marker that ends
    the turn); ``bounds`` int64 (N + 1,). With ``order`` (N,) row i is the one at ``order[i]`` of these arrays, which
    may hold more rows: tokens of many rows lie in a file, and choosing or sorting them copies none.
    """

    ids: Sequence[str]
    source: Sequence[str]
    tokens: npt.NDArray[np.int32]
    mask: npt.NDArray[np.bool_]
    bounds: IntArray
    order: IntArray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> IntArray:
        """Tokens of each row, (N,)."""
        return np.diff(self.bounds) if self.order is None else self._lengths_at(self.order)

    def lengths_of(self, rows: IntArray) -> IntArray:
        """Tokens of the rows at these positions (B,): a batch must not cost what N rows cost."""
        return self._lengths_at(rows if self.order is None else self.order[rows])

    def _lengths_at(self, places: IntArray) -> IntArray:
        lengths: IntArray = self.bounds[places + 1] - self.bounds[places]
        return lengths

    def row(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Token ids and mask of row i."""
        place = i if self.order is None else self.order[i]
        piece = slice(self.bounds[place], self.bounds[place + 1])
        return self.tokens[piece], self.mask[piece]

    def block(self, start: int, stop: int) -> Encoded:
        """Rows ``start`` to ``stop`` without an ``order``: a few of them, laid end to end."""
        ids, source = self.ids[start:stop], self.source[start:stop]
        if self.order is not None:
            return Encoded.join(ids, source, [self.row(i) for i in range(start, stop)])
        first, last = self.bounds[start], self.bounds[stop]
        return Encoded(
            ids, source, self.tokens[first:last], self.mask[first:last], self.bounds[start : stop + 1] - first
        )

    def take(self, rows: Sequence[int] | IntArray) -> Encoded:
        """The rows at these positions, in this order."""
        places = np.asarray(rows, np.int64)
        ids, source = StringArray.of(self.ids).take(places), StringArray.of(self.source).take(places)
        return replace(self, ids=ids, source=source, order=places if self.order is None else self.order[places])

    def isin(self, ids: Iterable[str]) -> Encoded:
        """The rows that have one of these ids."""
        chosen = StringArray.of(self.ids).isin(ids)
        return self if chosen.all() else self.take(np.flatnonzero(chosen))

    def extend(self, other: Encoded) -> Encoded:
        """These rows and then the other's."""
        mine, its = self.block(0, len(self)), other.block(0, len(other))
        return Encoded(
            ids=StringArray.of(mine.ids) + its.ids,
            source=StringArray.of(mine.source) + its.source,
            tokens=np.concatenate([mine.tokens, its.tokens]),
            mask=np.concatenate([mine.mask, its.mask]),
            bounds=np.concatenate([mine.bounds, mine.bounds[-1] + its.bounds[1:]]),
        )

    @classmethod
    def join(
        cls,
        ids: Sequence[str],
        source: Sequence[str],
        parts: Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]],
    ) -> Encoded:
        """Rows given one by one as (token ids, mask)."""
        lengths = [len(tokens) for tokens, _ in parts]
        return cls(
            ids=StringArray.of(ids),
            source=StringArray.of(source),
            tokens=np.concatenate([np.asarray(t, np.int32) for t, _ in parts] or [np.empty(0, np.int32)]),
            mask=np.concatenate([np.asarray(m, np.bool_) for _, m in parts] or [np.empty(0, np.bool_)]),
            bounds=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )
