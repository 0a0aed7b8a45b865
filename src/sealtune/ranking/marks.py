"""Marks: what people decided about rows, as a vector beside the candidates (N,), for rankers that learn from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sealtune.core.string_array import StringArray
from sealtune.core.types import Decision

KEEP, DROP = 1, -1
"""Marks; 0: nobody decided, or could not."""

MARK_WEIGHT = 10.0
"""Examples with a guessed label that one marked row outweighs: ten marks then matter among hundreds of rows."""


def marks_of(decisions: Mapping[str, Decision], ids: Iterable[str]) -> Tensor | None:
    """The mark of each of these rows, (N,); None if none of them has one."""
    rows = StringArray.of(ids)
    marks = torch.zeros(len(rows), dtype=torch.int64)
    for mark, decision in ((KEEP, "keep"), (DROP, "drop")):
        marked = rows.isin(row_id for row_id, made in decisions.items() if made.decision == decision)
        marks[torch.from_numpy(marked)] = mark
    return marks if bool(marks.any()) else None


def with_mark(rows: Tensor, marks: Tensor | None, mark: int) -> Tensor:
    """Those of the rows (K,) that have this mark; all of them without any marks."""
    return rows if marks is None else rows[marks[rows] == mark]


def example_weights(marks: Tensor | None) -> Tensor | None:
    """How much each candidate counts as an example, (N,); None, for all alike, without any marks."""
    return None if marks is None else torch.where(marks == 0, 1.0, MARK_WEIGHT).double()
