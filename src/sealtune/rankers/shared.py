"""A shared scorer: theta learns the safe set, its losses teach a scorer on hidden states, and both judge each row.

The loss of a row under a model tuned on the safe set says how little the row fits it, one noisy number a row. The
scorer (``scorer.teach``) learns from those numbers which hidden states go with a bad fit, so that rows like each other
are judged alike. The score is the sum of the two, each in its own standard deviations: either alone does worse where
unsafe rows are few (the scorer) or look ordinary (the loss); see docs/LOG.md.

It is SEAL's first epoch (gamma = 0) with omega_i = f(features of row i) in place of free logits, and costs one epoch
over the safe set and one forward pass over both sets.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sealtune.adapters import Player
from sealtune.data.batches import longest_first
from sealtune.players import learn_safe_set, make_players, safe_batches
from sealtune.rankers import Job
from sealtune.records import Encoded, Scores
from sealtune.scorer import teach
from sealtune.train import Progress, require_finite


def rank(job: Job) -> Scores:
    """Standardised minus-loss plus standardised shared score. Raises RunError on a loss that is not finite."""
    size, n = job.config.rank.per_device_train_batch_size, len(job.candidates)
    safe = safe_batches(job)
    progress = Progress(job.on_step, safe.per_epoch + -(-n // size) + -(-len(job.safe) // size))
    theta = make_players(job, ["theta"])["theta"]
    learn_safe_set(theta, safe, job.config.seed, progress)
    losses, features = look(theta, job.candidates, progress)
    _, safe_features = look(theta, job.safe, progress)
    score = standard(-losses)
    if n > 1:
        score = score + standard(teach(-losses, features, safe_features, job.config.seed))
    return Scores(
        ids=job.candidates.ids,
        source=job.candidates.source,
        score=score.numpy(),
        weight=np.ones(n),
        loss=losses.numpy(),
        gap=np.full(n, np.nan),
        visits=np.ones(n, np.int64),
    )


def look(player: Player, rows: Encoded, progress: Progress) -> tuple[Tensor, Tensor]:
    """Losses (N,) and features (N, D) of all rows under the player, float64, by forward passes alone."""
    player.activate()
    losses, features = torch.empty(len(rows), dtype=torch.float64), []
    order = []
    for batch in longest_first(rows, player.micro_batch):
        (piece,) = batch.split(player.micro_batch)
        places = batch.rows[piece.places]
        losses[places], part = player.model.losses_and_features(piece)
        require_finite(losses[batch.rows].numpy(), batch)
        features.append(part)
        order.append(places)
        progress.report(len(places), batch.token_count, candidate_loss=float(losses[places].mean()))
    return losses, torch.cat(features)[torch.argsort(torch.cat(order))]


def standard(values: Tensor) -> Tensor:
    """Values with mean 0 and deviation 1 (all 0 where they do not differ)."""
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-12)
