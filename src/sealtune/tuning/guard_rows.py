"""The safe set as the guard uses it: which rows it learns from, which it only watches, and in what order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sealtune.core.string_array import IntArray
from sealtune.data.batches import Padded, pad
from sealtune.data.encoded import Encoded, TokensAndMask
from sealtune.models.openings import REFUSALS

BoolArray = npt.NDArray[np.bool_]

MAX_TRAINED = 1024
"""Most rows that the guard learns from: what the start model predicts on them is kept in memory."""
MAX_WATCHED = 16
"""Most rows of each half that are watched: they are measured several times during the training."""


@dataclass(frozen=True)
class GuardRows:
    """A safe set in two halves. Of a conversation, the last answer counts: what comes before it is its prompt.

    Attributes:
        encoded: M tokenized rows.
        refuses: (M,), whether the prompt of a row is harmful, so that its answer refuses.
        openings: The words with which answers refuse.
    """

    encoded: Encoded
    refuses: BoolArray
    openings: tuple[str, ...] = REFUSALS

    def __len__(self) -> int:
        return len(self.encoded)

    def take(self, rows: Sequence[int] | IntArray) -> GuardRows:
        """The rows at these positions."""
        order = np.asarray(rows, np.int64)
        return replace(self, encoded=self.encoded.take(order), refuses=self.refuses[order])

    def split(self, seed: int, most: int) -> tuple[GuardRows, GuardRows]:
        """Rows to learn from, and a third of each half to watch.

        A half of fewer than three rows is learned from and watched.

        Args:
            seed: Of the order in which rows are chosen.
            most: Rows that can be learned from; each half gives up to its share of them, as in ``GuardSampler``.
        """
        halves = {side: np.flatnonzero(self.refuses == side) for side in (True, False)}
        share = -(-min(most, MAX_TRAINED) // max(1, sum(len(rows) > 0 for rows in halves.values())))
        trained, watched = [], []
        for side, ordered in halves.items():
            rows = ordered[np.random.default_rng([seed, int(side)]).permutation(len(ordered))]
            held = len(rows) // 3
            watched.append(rows[: held or len(rows)][:MAX_WATCHED])
            trained.append(rows[held:][:share])
        return self.take(np.concatenate(trained)), self.take(np.concatenate(watched))

    def row(self, row: int) -> TokensAndMask:
        """Token ids of a row, and the mask of its last answer."""
        tokens, mask = self.encoded.row(row)
        return tokens, last_answer(mask)

    def prompt_of(self, row: int) -> list[int]:
        """The tokens before the last answer, at least one."""
        tokens, mask = self.row(row)
        return [int(token) for token in tokens[: max(1, int(mask.argmax()))]]

    def pad(self, rows: IntArray) -> Padded:
        """These rows as one batch, padded on the right, in this order."""
        return pad([self.row(int(row)) for row in rows], rows)


class GuardSampler:
    """The safe rows of every step; they depend on seed and step alone, so that a resumed run sees the same ones.

    Each half is shuffled once per epoch over it, and both give as many rows to a step as far as there are any.
    """

    def __init__(self, rows: GuardRows, size: int, seed: int) -> None:
        halves = [np.flatnonzero(rows.refuses), np.flatnonzero(~rows.refuses)]
        self.halves = [half for half in halves if len(half)]
        self.size = size
        self.seed = seed

    def at(self, step: int) -> IntArray:
        """Positions (size,) of the rows of a step; steps start at 0."""
        count = len(self.halves)
        # Slot i of the endless sequence belongs to half i mod 2: an odd batch alternates which half has one row more.
        slots = range(step * self.size, (step + 1) * self.size)
        return np.array([self._row(slot % count, slot // count) for slot in slots], np.int64)

    def _row(self, half: int, number: int) -> int:
        rows = self.halves[half]
        epoch, place = divmod(number, len(rows))
        order = np.random.default_rng([self.seed, half, epoch]).permutation(len(rows))
        return int(rows[order[place]])


def last_answer(mask: BoolArray) -> BoolArray:
    """A loss mask (T,) cut to the last run of tokens that are learned."""
    learned = np.flatnonzero(mask)
    if not len(learned):
        return mask
    not_learned = np.flatnonzero(~mask[: learned[-1]])
    found = mask.copy()
    found[: not_learned[-1] + 1 if len(not_learned) else 0] = False
    return found


def response_positions(mask: Tensor, first: int) -> Tensor:
    """The mask (B, T) cut to the first ``first`` response tokens of each row."""
    return mask & (mask.cumsum(1) <= first)
