"""SEAL as its authors released it, as a baseline: Algorithm 2 with dense Adam on logits that start at 0.1.

In each step omega descends on the raw loss, which is not scaled by gamma; gamma is 0, ``rank.gamma``, twice that, ...
by epoch. The other keys of ``rank`` that choose a variant of SEAL (``algorithm``, ``weighting``, ``selector_update``,
``gamma_schedule``, ``stop_when_stable``) have no effect. Two bugs of that code are not reproduced: rows keep their
ids, and the two sets cycle independently. One is, because it is the method: the score depends on when a row was last
visited (``DenseAdam``).

Source: Shen, Chen, Das, Chen (ICLR 2025), arXiv 2410.07471, Algorithm 2, and the code released with it.
"""

from __future__ import annotations

from sealtune.core.config import RankConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Scores
from sealtune.ranking.job import Amounts, Cost, Job, Ranker
from sealtune.ranking.loop import SealLoop, seal_cost
from sealtune.ranking.safe_set import PLAYERS, make_players
from sealtune.ranking.selector import DenseAdam, FreeLogits

START = 0.1
RATE = 5e-3


def rank(job: Job) -> Scores:
    """The logits after the last step. Raises UserError if the linear schedule would take gamma to 1."""
    settings = released(job.config.rank)
    adam = DenseAdam(settings.selector_learning_rate or RATE)
    selector = FreeLogits(len(job.candidates), adam, "softmax", start=START)
    players = make_players(job, PLAYERS[2])
    loop = SealLoop(job.candidates, job.safe, players, selector, settings, job.config.seed)
    return loop.finish(job.on_step, job.resume)


def released(settings: RankConfig) -> RankConfig:
    """The settings, with the released variant in place of the one that the config names."""
    last = settings.gamma * (settings.num_train_epochs - 1)
    if last >= 1:
        raise UserError(f"rank.gamma: rank.method=seal_released reaches {last:g} in its last epoch; below 1 is needed")
    variant = {"algorithm": 2, "weighting": "softmax", "gamma_schedule": "linear", "stop_when_stable": None}
    return settings.model_copy(update=variant)


def cost(settings: RankConfig, amounts: Amounts) -> Cost:
    """The cost of the loop with one player and Adam's moments of every logit."""
    return seal_cost(released(settings), amounts, players=1, dense=True)


RANKER = Ranker(rank, cost)
