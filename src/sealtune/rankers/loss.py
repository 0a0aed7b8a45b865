"""Loss: how strange a row is to the untouched model. One forward pass, no training, no safe set."""

from __future__ import annotations

import time

import numpy as np

from sealtune.adapters import data_set_losses
from sealtune.rankers import Job
from sealtune.records import RunError, Scores
from sealtune.train import StepRecord


def rank(job: Job) -> Scores:
    """Minus the mean loss per response token. Raises RunError on a loss that is not finite."""
    n = len(job.candidates)
    size = job.config.rank.per_device_train_batch_size
    loss = np.empty(n)
    started = time.perf_counter()
    for number, (rows, losses) in enumerate(data_set_losses(job.load_model(False), job.candidates, size), start=1):
        loss[rows] = losses.numpy()
        if not np.isfinite(loss[rows]).all():
            bad = [job.candidates.ids[i] for i in rows if not np.isfinite(loss[i])]
            raise RunError(f"ranking stopped: the loss of candidates {', '.join(bad)} is not finite")
        now = time.perf_counter()
        record = StepRecord(
            step=number,
            epoch=0,
            gamma=0.0,
            safe_loss=None,
            candidate_loss=float(loss[rows].mean()),
            hat_loss=None,
            gap=None,
            rows=len(rows),
            tokens=int(job.candidates.lengths[rows].sum()),
            seconds=now - started,
        )
        started = now
        job.on_step(record, -(-n // size), dict)
    return Scores(
        ids=job.candidates.ids,
        source=job.candidates.source,
        score=-loss,
        weight=np.ones(n),
        loss=loss,
        gap=np.full(n, np.nan),
        visits=np.ones(n, np.int64),
    )
