"""SEAL: the ranker learned by bilevel optimisation against the safe set (Algorithms 1 and 2).

Source: Shen, Chen, Das, Chen (ICLR 2025), arXiv 2410.07471.
"""

from __future__ import annotations

from sealtune.core.config import RankConfig
from sealtune.core.types import Scores
from sealtune.ranking.job import Amounts, Cost, Job, Ranker
from sealtune.ranking.loop import SealLoop, seal_cost
from sealtune.ranking.safe_set import PLAYERS, make_players
from sealtune.ranking.selector import DenseAdam, FreeLogits, Mirror, Update


def rank(job: Job) -> Scores:
    """The logits omega after the last step: higher means that the row fits a model that stays safe."""
    settings = job.config.rank
    selector = FreeLogits(len(job.candidates), make_update(settings), settings.weighting)
    players = make_players(job, PLAYERS[settings.algorithm])
    loop = SealLoop(job.candidates, job.safe, players, selector, settings, job.config.seed)
    return loop.finish(job.on_step, job.resume)


def make_update(settings: RankConfig) -> Update:
    """The optimiser of omega that the config names."""
    rate = settings.selector_learning_rate
    if settings.selector_update == "adam":
        return DenseAdam(rate) if rate else DenseAdam()
    centred = settings.weighting == "softmax"
    return Mirror(rate, centred=centred) if rate else Mirror(centred=centred)


def cost(settings: RankConfig, amounts: Amounts) -> Cost:
    """The cost of the loop, with one or two players."""
    players = len(PLAYERS[settings.algorithm])
    return seal_cost(settings, amounts, players, dense=settings.selector_update == "adam")


RANKER = Ranker(rank, cost)
