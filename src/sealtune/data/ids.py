"""Ids of rows that do not have one for themselves; they need strings for those rows alone, and 16 bytes for any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from sealtune.core.string_array import IntArray

Hashes = npt.NDArray[np.uint64]


def hash_text(text: str) -> int:
    """64 bits of a hash."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def name_repeats(stems: Hashes, contents: Hashes, stem_of: Callable[[int], str]) -> dict[int, str]:
    """Names of the rows whose stem others have too; the name of every other row is its stem.

    Only the suffix of exact duplicates depends on the order of the rows.

    Args:
        stems: hash of each row's own id, or of its content where it has none, (N,); names are written over them.
        contents: hash of each row's content, (N,).
        stem_of: the stem itself of the row at a position.
    """
    shared = {int(i): stem_of(int(i)) for i in _repeated(stems)}
    kinds: dict[str, set[int]] = {}
    for i, stem in shared.items():
        kinds.setdefault(stem, set()).add(int(contents[i]))
    clear = {i: stem if len(kinds[stem]) == 1 else f"{stem}~{contents[i]:016x}"[:-8] for i, stem in shared.items()}
    for i, name in clear.items():
        stems[i] = hash_text(name)
    again = {int(i): clear.get(int(i)) or stem_of(int(i)) for i in _repeated(stems)}
    return clear | _number_duplicates(again, stems)


def _number_duplicates(names: Mapping[int, str], hashes: Hashes) -> dict[int, str]:
    """Each name made unique: ``a, a, a`` becomes ``a, a-2, a-3``, past any name that is taken already."""
    if not names:
        return {}
    sorted_hashes, added, seen, unique = np.sort(hashes), set[str](), Counter[str](), {}

    def is_taken(name: str) -> bool:
        value = np.uint64(hash_text(name))
        place = np.searchsorted(sorted_hashes, value)
        return name in added or bool(place < len(sorted_hashes) and sorted_hashes[place] == value)

    for i, name in names.items():
        seen[name] += 1
        numbered = name
        while seen[name] > 1 and is_taken(numbered := f"{name}-{seen[name]}"):
            seen[name] += 1
        added.add(numbered)
        unique[i] = numbered
    return unique


def _repeated(hashes: Hashes) -> IntArray:
    """Positions, in their order, of the values that are there more than once."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    repeated: IntArray = np.sort(order[np.union1d(same, same + 1)])
    return repeated
