"""Why rows cannot be used, in a few words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator

from sealtune.core.types import Drop

MAX_REASONS = 5
QUOTED = re.compile(r"'[^']{1,40}'")
NAMED = frozenset({"unknown_role", "unclear_mark", "template_markers"})
"""Reasons whose detail begins with what was found, in quotes."""


def describe(drops: Collection[Drop]) -> str:
    """The number of unusable rows, and of each reason: ``5 unusable: 3 unknown role 'critic', 2 empty response``."""
    return f"{len(drops):,} unusable: {count_reasons(drops)}"


def count_reasons(drops: Collection[Drop]) -> str:
    """The number of rows of each reason: ``3 unknown role 'critic', 2 empty response``."""
    return ", ".join(_parts(Counter(map(_reason, drops)).most_common()))


def _parts(counts: list[tuple[str, int]]) -> Iterator[str]:
    for reason, count in counts[:MAX_REASONS]:
        yield f"{count:,} {reason}"
    if rest := sum(count for _, count in counts[MAX_REASONS:]):
        yield f"{rest:,} for other reasons"


def _reason(drop: Drop) -> str:
    words = drop.reason.replace("_", " ")
    found = QUOTED.search(drop.detail) if drop.reason in NAMED else None
    return f"{words} {found[0]}" if found else words


def plural(count: int, noun: str) -> str:
    """The number with its noun: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
