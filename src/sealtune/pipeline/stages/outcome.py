"""What a stage leaves behind, and how rows that could not be used are told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sealtune.core.types import Drop


class Outcome(NamedTuple):
    """Files that a stage wrote, by their names in the run folder, and facts for the manifest."""

    files: Iterable[str]
    facts: Mapping[str, Any]


def drop_records(**sets: Iterable[Drop]) -> Iterator[dict[str, Any]]:
    """Lines of a drops.jsonl: a row of one of these sets and why it was not used."""
    for name, drops in sets.items():
        for drop in drops:
            yield {"set": name, "id": drop.id, "source": drop.source, "reason": drop.reason, "detail": drop.detail}
