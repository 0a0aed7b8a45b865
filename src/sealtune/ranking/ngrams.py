"""Unigrams and bigrams of response tokens as 64-bit hashes: the features of rankers that need no model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import IntArray
from sealtune.data.encoded import Encoded

HashArray = npt.NDArray[np.uint64]

BLOCK = 1024
"""Rows processed at once, so that memory does not grow with the data set."""


def blocks(rows: Encoded, size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """The (start, stop) positions of each block of rows."""
    for start in range(0, len(rows), size):
        yield start, min(start + size, len(rows))


def hashed_ngrams(rows: Encoded, start: int, stop: int) -> tuple[IntArray, HashArray]:
    """All n-grams of the response tokens of rows ``start`` to ``stop``: their rows, from 0, and hashes, both (G,).

    Prompts are left out, because only the loss mask separates the words of a row from the chat template that all rows
    share. A bigram is two adjacent response tokens; it crosses neither rows nor turns.
    """
    rows = rows.block(start, stop)
    mask, tokens = rows.mask, rows.tokens.astype(np.uint64)
    owner = np.repeat(np.arange(len(rows)), rows.lengths)
    once = _mix(tokens)
    pair = mask[1:] & mask[:-1] & (owner[1:] == owner[:-1])
    twice = _mix(once[:-1][pair] + tokens[1:][pair] + np.uint64(1))
    return np.concatenate([owner[mask], owner[1:][pair]]), np.concatenate([once[mask], twice])


def _mix(values: HashArray) -> HashArray:
    """The hash of each value: one step of SplitMix64, the same on every machine.

    Source: Steele, Lea, Flood (OOPSLA 2014), "Fast splittable pseudorandom number generators", figure 14.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
