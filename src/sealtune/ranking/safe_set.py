"""The players of a ranking, and the training of theta on the safe set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sealtune.core.errors import UserError
from sealtune.data.batches import Batches
from sealtune.models import sharding
from sealtune.models.adapters import Player, full_players, lora_players
from sealtune.models.load import compute_dtype
from sealtune.ranking.job import Job
from sealtune.ranking.loop import batch_size
from sealtune.ranking.progress import NonFiniteRows, Progress, finite_mean

PLAYERS = {1: ("theta", "theta_hat"), 2: ("theta",)}
"""The players of each algorithm."""


def make_players(job: Job, names: Sequence[str]) -> dict[str, Player]:
    """Players with these names on the job's model: adapters, or full models if ``rank.use_peft`` is false."""
    settings = job.config.rank
    if settings.use_peft:
        players = lora_players(job.load_model(False), settings, names, job.config.seed)
    else:
        players = full_players(job.load_model(True), settings, names, compute_dtype(job.config))
    if settings.torch_compile:
        if sharding.shards_base():
            raise UserError("rank.torch_compile: not with a sharded base; set it to false")
        for model in {id(player.model): player.model for player in players.values()}.values():
            model.compile()
    return players


def safe_batches(job: Job) -> Batches:
    """The safe set in batches of ``safe_batch_size`` rows, or of the size of the candidates' batches."""
    settings = job.config.rank
    size = settings.safe_batch_size or batch_size(settings)
    return Batches(job.safe, min(size, len(job.safe)), job.config.seed, stream=1)


def train_on_safe_set(
    player: Player, safe: Batches, job: Job, progress: Progress, steps: range, non_finite: NonFiniteRows | None = None
) -> None:
    """Training steps on the safe set alone.

    Args:
        player: is trained.
        safe: batches of the safe set.
        job: the ranking.
        progress: receives every step.
        steps: the steps to take, counted from 0 at the start of the training.
        non_finite: safe rows whose loss was not finite in earlier steps.

    Raises:
        RunError: too many losses are not finite.
    """
    non_finite = non_finite or NonFiniteRows(safe.encoded, job.config.rank.max_non_finite)
    set_dropout(player, on=True)
    for step in steps:
        torch.manual_seed(job.config.seed + step)  # makes dropout, if there is any, repeat after a resume
        batch = safe.at(step)
        losses = player.learn(batch, torch.ones(len(batch.rows)))
        non_finite.check(batch, losses)
        player.descend()
        progress.report(len(batch.rows), batch.token_count, safe_loss=finite_mean(losses))
    set_dropout(player, on=False)


def set_dropout(player: Player, *, on: bool) -> None:
    """Switch dropout only: the mode of the model as a whole has other effects (see ``adapters``)."""
    for module in player.model.body.modules():
        if isinstance(module, nn.Dropout):
            module.train(on)
