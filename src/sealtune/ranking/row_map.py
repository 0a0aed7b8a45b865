"""A map of the rows: what a ranker makes of them in two dimensions, for people to look at."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sealtune.core.string_array import FloatArray
from sealtune.ranking.linear_models import chunked, moments, subsample

FITTED = 2_000
"""Rows from which the axes are found."""


def row_map(features: Tensor, seed: int) -> FloatArray | None:
    """The first two principal components (N, 2) of standardised features (N, D); None with fewer than three rows."""
    from sklearn.decomposition import PCA
    from torch import arange

    if len(features) < 3 or features.shape[1] < 2:
        return None
    mean, deviation = moments(features)

    def standardised(rows: Tensor) -> FloatArray:
        found: FloatArray = ((rows.double() - mean) / deviation).numpy()
        return found

    axes = PCA(2, svd_solver="randomized", random_state=seed)
    axes.fit(standardised(features[subsample(arange(len(features)), FITTED)]))
    return np.concatenate([axes.transform(standardised(rows)) for rows in chunked(features)])
