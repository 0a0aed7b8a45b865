"""What a stage returns, and the format of drops.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sealtune.core.types import Drop


class Outcome(NamedTuple):
    """The files that a stage wrote, relative to the run folder, and facts for its manifest entry."""

    files: Iterable[str]
    facts: Mapping[str, Any]


def drop_records(**sets: Iterable[Drop]) -> Iterator[dict[str, Any]]:
    """Records of a drops.jsonl: the rows of each named set that were not used, with the reason."""
    for name, drops in sets.items():
        for drop in drops:
            yield {"set": name, "id": drop.id, "source": drop.source, "reason": drop.reason, "detail": drop.detail}
