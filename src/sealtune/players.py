"""The players of a ranking, made from what a ranker is given, and what rankers do with them alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sealtune import processes
from sealtune.adapters import Player, full_players, lora_players
from sealtune.data.batches import Batches
from sealtune.models import compute_dtype
from sealtune.records import UserError
from sealtune.train import Faults, Progress, batch_size, finite_mean

if TYPE_CHECKING:
    from sealtune.rankers import Job

PLAYERS = {1: ("theta", "theta_hat"), 2: ("theta",)}
"""Who plays in which algorithm."""


def make_players(job: Job, names: Sequence[str]) -> dict[str, Player]:
    """Players of these names on the job's model: adapters, or whole models where ``rank.use_peft`` is false."""
    settings = job.config.rank
    if settings.use_peft:
        players = lora_players(job.load_model(False), settings, names, job.config.seed)
    else:
        players = full_players(job.load_model(True), settings, names, compute_dtype(job.config))
    if settings.torch_compile:
        if processes.shards_base():
            raise UserError("rank.torch_compile: not with a sharded base; set it to false")
        for model in {id(player.model): player.model for player in players.values()}.values():
            model.compile()
    return players


def safe_batches(job: Job) -> Batches:
    """The safe set in batches of ``safe_batch_size``, or as large as those of the candidates."""
    settings = job.config.rank
    size = settings.safe_batch_size or batch_size(settings)
    return Batches(job.safe, min(size, len(job.safe)), job.config.seed, stream=1)


def learn_safe_set(
    player: Player, safe: Batches, job: Job, progress: Progress, steps: range, faults: Faults | None = None
) -> None:
    """Steps over the safe set; ``faults`` are those met before them.

    Raises:
        RunError: too many losses are not finite.
    """
    faults = faults or Faults(safe.encoded, job.config.rank.max_not_finite)
    set_dropout(player, on=True)
    for step in steps:
        torch.manual_seed(job.config.seed + step)  # dropout, where there is some, repeats
        batch = safe.at(step)
        losses = player.learn(batch, torch.ones(len(batch.rows)))
        faults.note(batch, losses)
        player.descend()
        progress.report(len(batch.rows), batch.token_count, safe_loss=finite_mean(losses))
    set_dropout(player, on=False)


def set_dropout(player: Player, *, on: bool) -> None:
    """Dropout alone: the mode of the whole model decides more (see ``adapters``)."""
    for module in player.model.body.modules():
        if isinstance(module, nn.Dropout):
            module.train(on)
