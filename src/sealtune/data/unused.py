"""Rows that are not used, with the reason, as collections that hold none of them: each is made when it is come to."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from operator import attrgetter

from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Drop, Sample
from sealtune.data.row_store import Samples


def drop(sample: Sample, reason: str, detail: str) -> Drop:
    """The sample as one that is not used."""
    return Drop(sample.id, sample.source, reason, detail, sample.row, sample.position)


class Unused(Collection[Drop]):
    """Several collections of rows, each in input order, as one in input order."""

    def __init__(self, *parts: Collection[Drop]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Drop]:
        return heapq.merge(*self.parts, key=attrgetter("position"))

    def __contains__(self, row: object) -> bool:
        return any(row in part for part in self.parts)


class Unlearnable(Collection[Drop]):
    """Usable rows that a tokenizer can make nothing of.

    Args:
        samples: all the usable rows.
        places: which of them, (K,), rising.
        reasons: a slug for each of those, K.
        details: a sentence for each, K.
    """

    def __init__(self, samples: Samples, places: IntArray, reasons: StringArray, details: StringArray) -> None:
        self.samples = samples.take(places)
        self.reasons = reasons
        self.details = details

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Drop]:
        return map(drop, self.samples, self.reasons, self.details)

    def __contains__(self, row: object) -> bool:
        return any(row == mine for mine in self)
