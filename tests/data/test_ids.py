"""Row ids, compared with a simple implementation that keeps all strings in memory."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.data.ids import hash_text, name_repeats

NAMES = st.sampled_from(["a", "a-2", "a-3", "b", "a~0000000", "a-2-2"])
ROWS = st.lists(st.tuples(st.none() | NAMES, st.integers(0, 3)), max_size=12)


def simple_names(rows):
    stems = [own or f"{content:016x}" for own, content in rows]
    kinds = {}
    for stem, (_, content) in zip(stems, rows, strict=True):
        kinds.setdefault(stem, set()).add(content)
    clear = [
        stem if len(kinds[stem]) == 1 else f"{stem}~{content:016x}"[:-8]
        for stem, (_, content) in zip(stems, rows, strict=True)
    ]
    taken, seen, unique = set(clear), Counter(), []
    for name in clear:
        seen[name] += 1
        numbered = name
        while seen[name] > 1 and (numbered := f"{name}-{seen[name]}") in taken:
            seen[name] += 1
        taken.add(numbered)
        unique.append(numbered)
    return unique


@settings(max_examples=300)
@given(ROWS)
def test_names_match_the_simple_implementation_and_are_unique(rows):
    stems = [own or f"{content:016x}" for own, content in rows]
    hashes = np.array([hash_text(stem) for stem in stems], np.uint64)
    before = hashes.copy()
    repeats = name_repeats(hashes, np.array([content for _, content in rows], np.uint64), stems.__getitem__)
    names = [repeats.get(i, stem) for i, stem in enumerate(stems)]
    np.testing.assert_array_equal(hashes, before)
    assert names == simple_names(rows)
    assert len(set(names)) == len(names)


def test_suffixes_are_pinned():
    stems = ["a", "a", "a", "b", "b", "c", "b-2"]
    contents = np.array([0x123456789ABCDEF0, 1, 1, 7, 7, 7, 8], np.uint64)
    repeats = name_repeats(np.array([hash_text(stem) for stem in stems], np.uint64), contents, stems.__getitem__)
    assert repeats == {0: "a~12345678", 1: "a~00000000", 2: "a~00000000-2", 3: "b", 4: "b-3"}
