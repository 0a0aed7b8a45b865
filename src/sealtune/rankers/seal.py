"""SEAL: the ranker learned by bilevel optimisation against the safe set (Algorithms 1 and 2).

Source: Shen, Chen, Das, Chen (ICLR 2025), arXiv 2410.07471.
"""

from __future__ import annotations

from sealtune.config import RankConfig
from sealtune.players import PLAYERS, make_players
from sealtune.rankers import Job
from sealtune.records import Scores
from sealtune.selector import DenseAdam, FreeLogits, Mirror
from sealtune.train import Ranking


def rank(job: Job) -> Scores:
    """The logits omega after the last step: higher means that the row fits a model that stays safe."""
    settings = job.config.rank
    selector = make_selector(len(job.candidates), settings)
    players = make_players(job, PLAYERS[settings.algorithm])
    ranking = Ranking(job.candidates, job.safe, players, selector, settings, job.config.seed)
    return ranking.finish(job.on_step, job.resume)


def make_selector(n: int, settings: RankConfig) -> FreeLogits:
    """The selector that the config asks for, over n rows."""
    rate = settings.selector_learning_rate
    kind = Mirror if settings.selector_update == "mirror" else DenseAdam
    return FreeLogits(n, kind(rate) if rate else kind(), settings.weighting, split=settings.shard_selector)
