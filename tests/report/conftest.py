import numpy as np
import pytest

from sealtune.core.types import Drop, Response, Scores, Verdict
from sealtune.evaluation.judging import tabulate
from sealtune.report.view import ReportView


def ranking(n=40):
    rng = np.random.default_rng(0)
    unsafe = np.arange(n) % 4 == 0
    score = rng.normal(size=n) - 1.5 * unsafe
    ids, source = tuple(f"row{i}" for i in range(n)), tuple("ab"[i % 2] for i in range(n))
    scores = Scores(ids, source, score, np.ones(n), rng.random(n), np.full(n, np.nan), np.ones(n, np.int64))
    return scores, dict(zip(ids, unsafe.astype(int).tolist(), strict=True))
