"""Batches of encoded rows: shuffled, grouped by length so that little is padding, the same for a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sealtune.core.string_array import IntArray
from sealtune.data.encoded import Encoded

GROUP = 128
"""Batches sorted by length together: enough to keep padding to some 2 % of rows of very different lengths."""


@dataclass(frozen=True, slots=True)
class Padded:
    """Rows padded on the right: ``tokens`` int64 (B, T), ``mask`` bool (B, T), ``places`` (B,) within their batch.

    No attention mask is needed: under a causal model no real token sees the padding behind it.
    """

    tokens: Tensor
    mask: Tensor
    places: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a data set: ``rows`` (B,) are their positions in it."""

    rows: Tensor
    encoded: Encoded

    @property
    def ids(self) -> list[str]:
        """Ids of the rows."""
        return [self.encoded.ids[i] for i in self.rows.tolist()]

    @property
    def token_count(self) -> int:
        """Tokens of the rows, without padding."""
        return int(self.encoded.lengths_of(self.rows.numpy()).sum())

    def split(self, size: int) -> Iterator[Padded]:
        """The batch in pieces of at most ``size`` rows, neighbours in length together."""
        lengths = self.encoded.lengths_of(self.rows.numpy())
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), size):
            yield self._pad(order[start : start + size])

    def _pad(self, places: IntArray) -> Padded:
        parts = [self.encoded.row(int(self.rows[place])) for place in places]
        width = max(len(tokens) for tokens, _ in parts)
        tokens = torch.zeros(len(parts), width, dtype=torch.int64)
        mask = torch.zeros(len(parts), width, dtype=torch.bool)
        for i, (row_tokens, row_mask) in enumerate(parts):
            tokens[i, : len(row_tokens)] = torch.from_numpy(row_tokens)
            mask[i, : len(row_mask)] = torch.from_numpy(row_mask)
        return Padded(tokens, mask, torch.from_numpy(places))


class Batches:
    """An endless, repeatable stream: ``at(step)`` depends on the seed and the step alone, so a resumed run meets the
    same rows. Every row comes once an epoch; the last batch of an epoch may be smaller.
    """

    def __init__(self, encoded: Encoded, size: int, seed: int, stream: int = 0) -> None:
        self.encoded = encoded
        self.size = size
        self.seed = [seed, stream]
        self.per_epoch = -(-len(encoded) // size)
        self._epoch, self._order, self._turns = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order, self._turns = self._shuffle(epoch)
        start = self._turns[place] * self.size
        return Batch(torch.from_numpy(self._order[start : start + self.size].copy()), self.encoded)

    def order(self, epoch: int) -> IntArray:
        """The rows (N,) of an epoch, one batch after the other, a smaller one last."""
        order, turns = self._shuffle(epoch)
        whole = turns[turns < len(order) // self.size]
        rows = order[: len(whole) * self.size].reshape(-1, self.size)[whole]
        return np.concatenate([rows.flatten(), order[rows.size :]])

    def _shuffle(self, epoch: int) -> tuple[IntArray, IntArray]:
        """The rows (N,), neighbours in length together within a group, and the turns in which the batches come."""
        random = np.random.default_rng([*self.seed, epoch])
        order = random.permutation(len(self.encoded))
        for start in range(0, len(order), GROUP * self.size):
            group = order[start : start + GROUP * self.size]
            group[:] = group[np.argsort(self.encoded.lengths_of(group), kind="stable")]
        return order, random.permutation(self.per_epoch)


def longest_first(rows: Encoded, size: int, start: int = 0) -> Iterator[Batch]:
    """All rows once, from the ``start``-th on, neighbours in length together; too little memory shows at once."""
    order = np.argsort(-rows.lengths, kind="stable")
    for place in range(start, len(order), size):
        yield Batch(torch.from_numpy(order[place : place + size]), rows)
