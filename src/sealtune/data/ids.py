"""Unique, stable row ids.

A row's stem is its own id, or the hash of its content. Only rows that share a stem need their strings in memory; all
others cost 16 bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def hash_text(text: str) -> int:
    """A 64-bit hash."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def name_repeats(stem_hashes: Hashes, content_hashes: Hashes, stem_of: Callable[[int], str]) -> dict[int, str]:
    """Ids, by position, of the rows whose stem occurs more than once; the id of every other row is its stem.

    Rows that differ in content get the start of their content hash as a suffix, exact duplicates a number. Only that
    number depends on the order of the rows.

    Args:
        stem_hashes: hash of each stem, (N,).
        content_hashes: hash of each row's content, (N,).
        stem_of: returns the stem of the row at a position.
    """
    stems = {i: stem_of(i) for i in _repeated(stem_hashes)}
    contents: dict[str, set[int]] = {}
    for i, stem in stems.items():
        contents.setdefault(stem, set()).add(int(content_hashes[i]))
    by_content = {
        i: stem if len(contents[stem]) == 1 else f"{stem}~{int(content_hashes[i]) >> 32:08x}"
        for i, stem in stems.items()
    }
    hashes = stem_hashes.copy()
    for i, name in by_content.items():
        hashes[i] = hash_text(name)
    duplicates = {i: by_content[i] if i in by_content else stem_of(i) for i in _repeated(hashes)}
    return by_content | _number_duplicates(duplicates, hashes)


def _number_duplicates(names: Mapping[int, str], hashes: Hashes) -> dict[int, str]:
    """Make every name unique: ``a, a, a`` becomes ``a, a-2, a-3``; names that are taken are skipped."""
    if not names:
        return {}
    sorted_hashes = np.sort(hashes)
    count, added = Counter[str](), set[str]()
    unique = {}
    for i, name in names.items():
        count[name] += 1
        numbered = name
        while count[name] > 1:
            numbered = f"{name}-{count[name]}"
            if numbered not in added and not _contains(sorted_hashes, hash_text(numbered)):
                break
            count[name] += 1
        added.add(numbered)
        unique[i] = numbered
    return unique


def _contains(sorted_hashes: Hashes, value: int) -> bool:
    place = np.searchsorted(sorted_hashes, np.uint64(value))
    return bool(place < len(sorted_hashes) and sorted_hashes[place] == value)


def _repeated(hashes: Hashes) -> list[int]:
    """Positions, ascending, of the values that occur more than once."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    repeated: list[int] = np.sort(order[np.union1d(same, same + 1)]).tolist()
    return repeated
