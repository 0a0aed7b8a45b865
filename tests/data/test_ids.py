"""Ids beside the obvious way to give them: all names in dictionaries of strings."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.data.ids import hash_text, name_repeats

NAMES = st.sampled_from(["a", "a-2", "a-3", "b", "a~0000000", "a-2-2"])
ROWS = st.lists(st.tuples(st.none() | NAMES, st.integers(0, 3)), max_size=12)


def obvious_names(rows):
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
def test_names_are_those_of_the_obvious_way_and_unique(rows):
    stems = [own or f"{content:016x}" for own, content in rows]
    named = name_repeats(
        np.array([hash_text(stem) for stem in stems], np.uint64),
        np.array([content for _, content in rows], np.uint64),
        stems.__getitem__,
    )
    names = [named.get(i, stem) for i, stem in enumerate(stems)]
    assert names == obvious_names(rows)
    assert len(set(names)) == len(names)
