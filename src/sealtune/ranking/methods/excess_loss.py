"""Excess loss: how much the loss of a row changes when the model is briefly trained on the safe set.

A row that resembles the safe set becomes easier; an unsafe one does not, or becomes harder. What makes a row hard or
long is in both losses and cancels. Two forward passes over the candidates and one epoch over the safe set.

Source: Mindermann et al. (ICML 2022), arXiv 2206.07137 ("reducible holdout loss"), with the safe set as the holdout.
"""

from __future__ import annotations

import numpy as np
import torch

from sealtune.core import distributed
from sealtune.core.config import RankConfig
from sealtune.core.string_array import FloatArray
from sealtune.core.types import Scores
from sealtune.data.batches import longest_first
from sealtune.models.adapters import Player
from sealtune.ranking.job import Amounts, Cost, Job, Ranker
from sealtune.ranking.progress import NonFiniteRows, Progress, finite_mean
from sealtune.ranking.safe_set import make_players, safe_batches, set_dropout, train_on_safe_set


def rank(job: Job) -> Scores:
    """Minus the gap; ``loss`` is the loss after the training, ``gap`` that minus the loss before."""
    settings, rows = job.config.rank, job.candidates
    safe = safe_batches(job)
    passes = 2 * -(-len(rows) // (settings.per_device_train_batch_size * distributed.num_processes()))
    progress = Progress(job.on_step, passes + safe.per_epoch)
    player = make_players(job, ["theta"])["theta"]
    non_finite = NonFiniteRows(rows, settings.max_non_finite)
    before = _losses(player, non_finite, progress)
    train_on_safe_set(player, safe, job, progress, range(safe.per_epoch))
    after = _losses(player, non_finite, progress, before)
    return Scores.unweighted(rows.ids, rows.source, before - after, loss=after, gap=after - before, visits=2)


def cost(settings: RankConfig, amounts: Amounts) -> Cost:
    """Two forward passes over the candidates, one epoch of training on the safe set."""
    return Cost(forward=2 * amounts.rows + amounts.safe_rows, backward=amounts.safe_rows, players=1)


def _losses(
    player: Player, non_finite: NonFiniteRows, progress: Progress, before: FloatArray | None = None
) -> FloatArray:
    """l_i of all rows, (N,), under the player as it is; ``before``, if given, is used in the log alone."""
    set_dropout(player, on=False)  # the loss of a row must not depend on when it is computed
    rows = non_finite.encoded
    losses = np.empty(len(rows))
    for batch in longest_first(rows, player.micro_batch * distributed.num_processes()):
        places = batch.rows.numpy()
        found = player.learn(batch, torch.zeros(len(places)))  # zero weights: forward only
        losses[places] = found.numpy()
        non_finite.check(batch, found)
        gap = None if before is None else finite_mean(found - torch.from_numpy(before[places]))
        progress.report(len(places), batch.token_count, candidate_loss=finite_mean(found), gap=gap)
    return losses


RANKER = Ranker(rank, cost)
