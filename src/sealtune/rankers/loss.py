"""Loss: how strange a row is to the untouched model. One forward pass, no training, no safe set."""

from __future__ import annotations

import numpy as np
import torch

from sealtune import processes
from sealtune.adapters import data_set_losses
from sealtune.data.batches import Batch
from sealtune.rankers import Job
from sealtune.records import Scores
from sealtune.train import Progress, require_finite


def rank(job: Job) -> Scores:
    """Minus the mean loss per response token. Raises RunError on a loss that is not finite."""
    n, size = len(job.candidates), job.config.rank.per_device_train_batch_size
    progress = Progress(job.on_step, -(-n // (size * processes.count())))
    loss = np.empty(n)
    for rows, losses in data_set_losses(job.load_model(False), job.candidates, size):
        batch = Batch(torch.from_numpy(rows), job.candidates)
        loss[rows] = losses.numpy()
        require_finite(loss[rows], batch)
        progress.report(len(rows), batch.token_count, candidate_loss=float(loss[rows].mean()))
    return Scores.unweighted(job.candidates, -loss, loss=loss, visits=1)
