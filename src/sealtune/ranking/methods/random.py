"""Random: the baseline that every ranker must beat. The score depends on the seed and the id of the row alone."""

from __future__ import annotations

import hashlib

import numpy as np

from sealtune.core.config import RankConfig
from sealtune.core.types import Scores
from sealtune.ranking.job import Amounts, Cost, Job, Ranker


def rank(job: Job) -> Scores:
    """Scores uniform in [0, 1)."""
    rows = job.candidates
    score = np.fromiter((_uniform(f"{job.config.seed}:{row_id}") for row_id in rows.ids), np.float64)
    return Scores.unweighted(rows.ids, rows.source, score)


def cost(settings: RankConfig, amounts: Amounts) -> Cost:
    """No model."""
    return Cost()


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48


RANKER = Ranker(rank, cost)
