"""Batches of tokenized rows: shuffled by seed and grouped by length, so that there is little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sealtune.core.string_array import IntArray
from sealtune.data.encoded import Encoded, TokensAndMask

GROUP = 128
"""Batches sorted by length together: enough to keep padding near 2 % for rows of very different lengths."""


@dataclass(frozen=True, slots=True)
class Padded:
    """Rows padded on the right: ``tokens`` int64 (B, T), ``mask`` bool (B, T), ``indices`` (B,) in their batch.

    No attention mask is needed: in a causal model no real token attends to the padding after it.
    """

    tokens: Tensor
    mask: Tensor
    indices: Tensor


def pad(rows: Sequence[TokensAndMask], indices: IntArray) -> Padded:
    """These rows, padded on the right, with their indices (B,)."""
    width = max(len(tokens) for tokens, _ in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (row_tokens, row_mask) in enumerate(rows):
        tokens[i, : len(row_tokens)] = torch.from_numpy(row_tokens)
        mask[i, : len(row_mask)] = torch.from_numpy(row_mask)
    return Padded(tokens, mask, torch.from_numpy(indices))


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of a dataset: ``rows`` (B,) are the positions of its rows."""

    rows: Tensor
    encoded: Encoded

    @property
    def ids(self) -> list[str]:
        """The ids of the rows."""
        return [self.encoded.ids[i] for i in self.rows.tolist()]

    @property
    def token_count(self) -> int:
        """The number of tokens, without padding."""
        return int(self.encoded.lengths_of(self.rows.numpy()).sum())

    def split(self, size: int) -> Iterator[Padded]:
        """Micro-batches of at most ``size`` rows of similar length."""
        lengths = self.encoded.lengths_of(self.rows.numpy())
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), size):
            yield self._pad(order[start : start + size])

    def _pad(self, indices: IntArray) -> Padded:
        return pad([self.encoded.row(int(self.rows[i])) for i in indices], indices)


class Batches:
    """An endless, reproducible stream of batches: ``at(step)`` depends only on the seed and the step, so a resumed run
    gets the same batches. Every row occurs once per epoch; one batch of an epoch may be smaller.
    """

    def __init__(self, encoded: Encoded, size: int, seed: int, stream: int = 0) -> None:
        self.encoded = encoded
        self.size = size
        self.seed = [seed, stream]
        self.per_epoch = -(-len(encoded) // size)
        self._epoch, self._order, self._sequence = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    def at(self, step: int) -> Batch:
        """The batch of a step; steps start at 0."""
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order, self._sequence = self._shuffle(epoch)
        start = self._sequence[number] * self.size
        return Batch(torch.from_numpy(self._order[start : start + self.size].copy()), self.encoded)

    def order(self, epoch: int) -> IntArray:
        """The rows (N,) of an epoch, batch by batch, the smaller one last."""
        order, sequence = self._shuffle(epoch)
        full = sequence[sequence < len(order) // self.size]
        rows = order[: len(full) * self.size].reshape(-1, self.size)[full]
        return np.concatenate([rows.flatten(), order[rows.size :]])

    def _shuffle(self, epoch: int) -> tuple[IntArray, IntArray]:
        """The rows (N,), sorted by length within each group, and the sequence in which their batches are used."""
        random = np.random.default_rng([*self.seed, epoch])
        order = random.permutation(len(self.encoded))
        for start in range(0, len(order), GROUP * self.size):
            group = order[start : start + GROUP * self.size]
            group[:] = group[np.argsort(self.encoded.lengths_of(group), kind="stable")]
        return order, random.permutation(self.per_epoch)


def longest_first(rows: Encoded, size: int, start: int = 0) -> Iterator[Batch]:
    """All rows once, by falling length, from row ``start`` of that order; running out of memory shows at once."""
    order = np.argsort(-rows.lengths, kind="stable")
    for first in range(start, len(order), size):
        yield Batch(torch.from_numpy(order[first : first + size]), rows)
