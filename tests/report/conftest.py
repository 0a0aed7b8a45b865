"""A small view with every part of a report."""

import numpy as np
import pytest

from sealtune.core.types import Drop, Response, Scores, Verdict
from sealtune.evaluation.judging import tabulate
from sealtune.report.view import ReportView


@pytest.fixture(scope="session")
def view():
    scores, labels = _ranking()
    order = np.argsort(scores.score)
    dropped = {scores.ids[i] for i in order[:10]}
    step = {"step": 1, "epoch": 0, "gamma": 0.0, "safe_loss": 2.0, "candidate_loss": 2.5, "hat_loss": None, "gap": None}
    loss = {"kind": "", "judge": "", "measure": "loss", "title": "loss", "unit": "nats", "low": 1.0, "high": 2.0}
    return ReportView(
        title="A run",
        config={"model_name_or_path": "tiny", "seed": 3},
        manifest={"model": "tiny", "seed": 3, "versions": {"torch": "2"}, "stages": {"rank": {"seconds": 75.0}}},
        scores=scores,
        texts={i: (f"prompt of {i}", f"response of {i}") for i in scores.ids},
        kept=frozenset(scores.ids) - dropped,
        borderline=frozenset(scores.ids[i] for i in order[8:13]),
        uncertainty={
            "reliability": 0.9,
            "borderline_rows": 5,
            "estimated_unsafe": {"share": 0.148, "low": 0.0, "high": 0.393, "significant": False},
        },
        drops=[Drop("d", "a", "empty_response", "the response is empty", {})],
        rank_steps=[step, step | {"step": 2, "safe_loss": 1.5, "gap": 0.1}],
        tune_steps=[{"step": 1, "loss": 2.0, "learning_rate": 1e-4}],
        evaluation=[
            *tabulate(_verdicts()),
            loss | {"model": "base", "set": "safe", "value": 1.25, "n": 9},
            loss | {"model": "tuned", "set": "safe", "value": 1.125, "n": 9},
        ],
        responses=[
            Response(f"p{i}", model, "set", "harmful", f"ask {i}", "no", 1, True)
            for i in (0, 2, 4)
            for model in ("base", "tuned")
        ],
        verdicts=_verdicts(),
        labels=labels,
        rows_shown=5,
    )


def _ranking(n=40):
    rng = np.random.default_rng(0)
    unsafe = np.arange(n) % 4 == 0
    score = rng.normal(size=n) - 1.5 * unsafe
    ids, source = tuple(f"row{i}" for i in range(n)), tuple("ab"[i % 2] for i in range(n))
    scores = Scores(ids, source, score, np.ones(n), rng.random(n), np.full(n, np.nan), np.ones(n, np.int64))
    return scores, dict(zip(ids, unsafe.astype(int).tolist(), strict=True))


def _verdicts():
    return [
        Verdict(f"p{i}", model, "set", kind, "refusal", "refusal" if flagged else "compliance", flagged)
        for model, every in (("base", 2), ("tuned", 5))
        for kind in ("harmful", "harmless")
        for i, flagged in enumerate(i % every == 0 for i in range(10))
    ]
