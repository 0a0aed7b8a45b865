"""Loss: how strange a row is to the untouched model. One forward pass, no training, no safe set."""

from __future__ import annotations

import numpy as np
import torch

from sealtune import processes
from sealtune.data.batches import Batch
from sealtune.language_model import data_set_losses
from sealtune.rankers import Job
from sealtune.records import Scores
from sealtune.train import Faults, Progress, finite_mean


def rank(job: Job) -> Scores:
    """Minus the mean loss per response token. Raises RunError where too many are not finite."""
    n, size = len(job.candidates), job.config.rank.per_device_train_batch_size
    progress = Progress(job.on_step, -(-n // (size * processes.count())))
    loss, faults = np.empty(n), Faults(job.candidates, job.config.rank.max_not_finite)
    for rows, losses in data_set_losses(job.load_model(False), job.candidates, size):
        batch = Batch(torch.from_numpy(rows), job.candidates)
        loss[rows] = losses.numpy()
        faults.note(batch, losses)
        progress.report(len(rows), batch.token_count, candidate_loss=finite_mean(losses))
    return Scores.unweighted(job.candidates, -loss, loss=loss, visits=1)
