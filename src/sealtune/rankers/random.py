"""Random: the baseline that every ranker must beat. A row's score depends on the seed and its id alone."""

from __future__ import annotations

import hashlib

import numpy as np

from sealtune.rankers import Job
from sealtune.records import Scores


def rank(job: Job) -> Scores:
    """Scores uniform in [0, 1)."""
    score = np.fromiter((_uniform(f"{job.config.seed}:{row_id}") for row_id in job.candidates.ids), np.float64)
    return Scores.unweighted(job.candidates, score)


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48
