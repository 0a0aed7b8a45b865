"""Rows that occur more than once: exactly, by the hash of their conversations, and nearly, by MinHash."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from sealtune.core.types import Sample
from sealtune.data.row_store import Samples

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

SHINGLE_WORDS = 3
PERMUTATIONS = 128
SIMILARITY = 0.8
"""Jaccard similarity of the word shingles of rows that count as near-duplicates."""
MAX_COMPARED = 20_000
"""Rows of a set whose near-duplicates are looked for: the first ones."""
WORD = re.compile(r"\w+")


def count_repeats(samples: Samples) -> int:
    """The number of rows whose conversation another row before them has."""
    hashes = samples.content_hashes()
    return len(hashes) - len(np.unique(hashes))


def count_shared(candidates: Samples, safe: Samples) -> int:
    """The number of candidates whose conversation is in the safe set."""
    return int(np.isin(candidates.content_hashes(), safe.content_hashes()).sum())


def count_near_duplicates(samples: Samples) -> int:
    """The number of rows, of the first MAX_COMPARED, that are like a row before them, exact duplicates included."""
    index, found = _new_index(), 0
    for i, sketch in enumerate(_sketches(samples)):
        if index.query(sketch):
            found += 1
        else:
            index.insert(str(i), sketch)
    return found


def count_near_shared(candidates: Samples, safe: Samples) -> int:
    """The number of candidates, of the first MAX_COMPARED, that are like a row of the safe set, or the same."""
    index = _new_index()
    for i, sketch in enumerate(_sketches(safe)):
        index.insert(str(i), sketch)
    return sum(bool(index.query(sketch)) for sketch in _sketches(candidates))


def _new_index() -> MinHashLSH:
    from datasketch import MinHashLSH

    return MinHashLSH(threshold=SIMILARITY, num_perm=PERMUTATIONS)


def _sketches(samples: Samples) -> Iterator[MinHash]:
    from datasketch import MinHash

    chosen: Iterator[Sample] = islice(samples, MAX_COMPARED)
    sketches: Iterator[MinHash] = MinHash.generator(map(_shingles, chosen), num_perm=PERMUTATIONS)
    return sketches


def _shingles(sample: Sample) -> list[bytes]:
    words = WORD.findall(" ".join(turn.content for turn in sample.messages).lower())
    return list(_windows(words)) or [" ".join(words).encode()]


def _windows(words: Sequence[str]) -> Iterator[bytes]:
    for i in range(len(words) - SHINGLE_WORDS + 1):
        yield " ".join(words[i : i + SHINGLE_WORDS]).encode()
