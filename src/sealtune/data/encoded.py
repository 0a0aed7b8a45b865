"""Tokenized rows, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import IntArray, StringArray

TokensAndMask = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]
"""Token ids and loss mask of one row, both (T,)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """N tokenized rows, concatenated: row i is ``tokens[bounds[i]:bounds[i + 1]]``.

    Attributes:
        ids: N row ids.
        source: (N,), the name of the dataset of each row.
        tokens: int32 (T,).
        mask: the loss mask, bool (T,): true for response tokens and the special token that ends the turn.
        bounds: int64 (N + 1,).
        order: (N,); if given, row i is row ``order[i]`` of the arrays above. They may hold more rows, so selecting or
            sorting rows copies no tokens.
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
        """Number of tokens per row, (N,)."""
        return np.diff(self.bounds) if self.order is None else self._lengths_at(self.order)

    def lengths_of(self, rows: IntArray) -> IntArray:
        """Number of tokens of the rows at these positions, (B,), without computing all N."""
        return self._lengths_at(rows if self.order is None else self.order[rows])

    def _lengths_at(self, rows: IntArray) -> IntArray:
        lengths: IntArray = self.bounds[rows + 1] - self.bounds[rows]
        return lengths

    def row(self, i: int) -> TokensAndMask:
        """Token ids and loss mask of row i."""
        k = i if self.order is None else self.order[i]
        span = slice(self.bounds[k], self.bounds[k + 1])
        return self.tokens[span], self.mask[span]

    def block(self, start: int, stop: int) -> Encoded:
        """Rows ``start`` to ``stop``, contiguous and without an ``order``."""
        ids, source = self.ids[start:stop], self.source[start:stop]
        if self.order is not None:
            return Encoded.join(ids, source, [self.row(i) for i in range(start, stop)])
        first, last = self.bounds[start], self.bounds[stop]
        return Encoded(
            ids, source, self.tokens[first:last], self.mask[first:last], self.bounds[start : stop + 1] - first
        )

    def take(self, rows: Sequence[int] | IntArray) -> Encoded:
        """The rows at these positions, in this order."""
        order = np.asarray(rows, np.int64)
        ids, source = StringArray.of(self.ids).take(order), StringArray.of(self.source).take(order)
        return replace(self, ids=ids, source=source, order=order if self.order is None else self.order[order])

    def isin(self, ids: Iterable[str]) -> Encoded:
        """The rows with one of these ids."""
        wanted = StringArray.of(self.ids).isin(ids)
        return self if wanted.all() else self.take(np.flatnonzero(wanted))

    def extend(self, other: Encoded) -> Encoded:
        """These rows followed by those of ``other``."""
        first, second = self.block(0, len(self)), other.block(0, len(other))
        return Encoded(
            ids=StringArray.of(first.ids) + second.ids,
            source=StringArray.of(first.source) + second.source,
            tokens=np.concatenate([first.tokens, second.tokens]),
            mask=np.concatenate([first.mask, second.mask]),
            bounds=np.concatenate([first.bounds, first.bounds[-1] + second.bounds[1:]]),
        )

    @classmethod
    def join(cls, ids: Sequence[str], source: Sequence[str], rows: Sequence[TokensAndMask]) -> Encoded:
        """The rows, concatenated."""
        lengths = [len(tokens) for tokens, _ in rows]
        return cls(
            ids=StringArray.of(ids),
            source=StringArray.of(source),
            tokens=np.concatenate([np.asarray(t, np.int32) for t, _ in rows] or [np.empty(0, np.int32)]),
            mask=np.concatenate([np.asarray(m, np.bool_) for _, m in rows] or [np.empty(0, np.bool_)]),
            bounds=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )
