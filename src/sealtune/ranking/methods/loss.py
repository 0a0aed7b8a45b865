"""Loss: how surprising a row is to the untouched model. One forward pass, no training, no safe set."""

from __future__ import annotations

import numpy as np
import torch

from sealtune.core import distributed
from sealtune.core.config import RankConfig
from sealtune.core.types import Scores
from sealtune.data.batches import Batch
from sealtune.models.causal_lm import dataset_losses
from sealtune.ranking.job import Amounts, Cost, Job, Ranker
from sealtune.ranking.progress import NonFiniteRows, Progress, finite_mean


def rank(job: Job) -> Scores:
    """Minus the mean loss per response token. Raises RunError if too many losses are not finite."""
    rows, size = job.candidates, job.config.rank.per_device_train_batch_size
    progress = Progress(job.on_step, -(-len(rows) // (size * distributed.num_processes())))
    loss, non_finite = np.empty(len(rows)), NonFiniteRows(rows, job.config.rank.max_non_finite)
    for places, losses in dataset_losses(job.load_model(False), rows, size):
        batch = Batch(torch.from_numpy(places), rows)
        loss[places] = losses.numpy()
        non_finite.check(batch, losses)
        progress.report(len(places), batch.token_count, candidate_loss=finite_mean(losses))
    return Scores.unweighted(rows.ids, rows.source, -loss, loss=loss, visits=1)


def cost(settings: RankConfig, amounts: Amounts) -> Cost:
    """One forward pass over the candidates."""
    return Cost(forward=amounts.rows, players=1)


RANKER = Ranker(rank, cost)
