"""The rows that are most alike to a ranker, shown beside a row so that people can judge its score."""

from __future__ import annotations

import torch
from torch import Tensor

from sealtune.core.string_array import StringArray
from sealtune.core.types import Neighbours
from sealtune.ranking.linear_models import chunked, moments

ROWS, SAFE_ROWS = 6, 2
"""Neighbours of each row among the candidates, and in the safe set."""
MAX_ROWS = 10_000
"""Of more candidates none are looked for: every pair is compared, and people look at a few hundred."""


def neighbours(features: Tensor, safe: Tensor, ids: StringArray, safe_ids: StringArray) -> dict[str, Neighbours]:
    """The nearest rows of each row by the cosine of standardised features, the nearest first.

    Args:
        features: Of N candidates, (N, D).
        safe: Of S rows of the safe set, (S, D).
        ids: Ids of the candidates.
        safe_ids: Ids of the safe rows.

    Returns:
        The neighbours by id; empty for more than MAX_ROWS candidates.
    """
    if not 1 < len(features) <= MAX_ROWS:
        return {}
    mean, deviation = moments(features, safe)

    def directions(rows: Tensor) -> Tensor:
        return torch.nn.functional.normalize((rows.double() - mean) / deviation, dim=1).float()

    own, others = directions(features), directions(safe)
    found: dict[str, Neighbours] = {}
    names, safe_names = list(ids), list(safe_ids)
    for chunk in chunked(torch.arange(len(own))):
        alike = own[chunk] @ own.T
        alike[torch.arange(len(chunk)), chunk] = -torch.inf  # not the row itself
        rows = alike.topk(min(ROWS, len(own) - 1)).indices.tolist()
        near_safe = (own[chunk] @ others.T).topk(min(SAFE_ROWS, len(others))).indices.tolist()
        for row, near, good in zip(chunk.tolist(), rows, near_safe, strict=True):
            alike_rows, alike_safe = tuple(names[i] for i in near), tuple(safe_names[i] for i in good)
            found[names[row]] = Neighbours(names[row], alike_rows, alike_safe)
    return found
