"""Excess loss: by how much a row's loss changes when the model is briefly tuned on the safe set.

A row that resembles the safe set becomes easier, an unsafe one does not, or becomes harder. What makes a row hard or
long is in both losses and cancels. Two forward passes over the candidates and one epoch over the safe set.

Source: Mindermann et al. (ICML 2022), arXiv 2206.07137 ("reducible holdout loss"), with the safe set as the holdout.
"""

from __future__ import annotations

import numpy as np
import torch

from sealtune import processes
from sealtune.adapters import Player
from sealtune.data.batches import longest_first
from sealtune.players import learn_safe_set, make_players, safe_batches, set_dropout
from sealtune.rankers import Job
from sealtune.records import FloatArray, Scores
from sealtune.train import Faults, Progress, finite_mean


def rank(job: Job) -> Scores:
    """Minus the gap; ``loss`` is the loss after tuning, ``gap`` that minus the loss before."""
    settings, n = job.config.rank, len(job.candidates)
    safe = safe_batches(job)
    passes = 2 * -(-n // (settings.per_device_train_batch_size * processes.count()))
    progress = Progress(job.on_step, passes + safe.per_epoch)
    player = make_players(job, ["theta"])["theta"]
    faults = Faults(job.candidates, settings.max_not_finite)
    before = _losses(player, faults, progress)
    learn_safe_set(player, safe, job, progress, range(safe.per_epoch))
    after = _losses(player, faults, progress, before)
    return Scores.unweighted(job.candidates, before - after, loss=after, gap=after - before, visits=2)


def _losses(player: Player, faults: Faults, progress: Progress, before: FloatArray | None = None) -> FloatArray:
    """l_i of all rows, (N,), under the player as it stands; ``before``, where given, is for the log alone."""
    set_dropout(player, on=False)  # the same row must have the same loss whenever it is asked
    rows = faults.encoded
    losses = np.empty(len(rows))
    for batch in longest_first(rows, player.micro_batch * processes.count()):
        places = batch.rows.numpy()
        found = player.learn(batch, torch.zeros(len(places)))  # no weight: forward only
        losses[places] = found.numpy()
        faults.note(batch, found)
        gap = None if before is None else finite_mean(found - torch.from_numpy(before[places]))
        progress.report(len(places), batch.token_count, candidate_loss=finite_mean(found), gap=gap)
    return losses
