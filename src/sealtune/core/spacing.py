"""A few of many rows, at even distances."""

from __future__ import annotations

import numpy as np

from sealtune.core.string_array import IntArray


def evenly_spaced(n: int, most: int) -> IntArray:
    """At most ``most`` of the positions 0 to n - 1, ascending, with both ends; empty if there are none."""
    positions: IntArray = np.unique(np.linspace(0, max(0, n - 1), min(n, most)).astype(int))
    return positions
