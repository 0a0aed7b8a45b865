"""SEAL: the ranker learned by bilevel optimisation against the safe set (Algorithms 1 and 2).

Source: Shen, Chen, Das, Chen (ICLR 2025), arXiv 2410.07471.
"""

from __future__ import annotations

from sealtune.adapters import Player, full_players, lora_players
from sealtune.config import RankConfig
from sealtune.models import compute_dtype
from sealtune.rankers import Job
from sealtune.records import Scores
from sealtune.selector import DenseAdam, FreeLogits, Mirror
from sealtune.train import Ranking


def rank(job: Job) -> Scores:
    """The logits omega after the last step: higher means that the row fits a model that stays safe."""
    settings = job.config.rank
    selector = make_selector(len(job.candidates), settings)
    ranking = Ranking(job.candidates, job.safe, make_players(job), selector, settings, job.config.seed)
    if job.resume:
        ranking.load_state(job.resume)
    for record in ranking.run():
        job.on_step(record, ranking.total_steps, ranking.state)
    return Scores(
        ids=job.candidates.ids,
        source=job.candidates.source,
        score=selector.omega.numpy(),
        weight=selector.all_weights().numpy(),
        loss=ranking.last_loss.numpy(),
        gap=ranking.last_gap.numpy(),
        visits=ranking.visits.numpy(),
    )


def make_selector(n: int, settings: RankConfig) -> FreeLogits:
    """The selector that the config asks for, over n rows."""
    rate = settings.selector_learning_rate
    kind = Mirror if settings.selector_update == "mirror" else DenseAdam
    return FreeLogits(n, kind(rate) if rate else kind(), settings.weighting)


def make_players(job: Job) -> dict[str, Player]:
    """theta, and for Algorithm 1 theta_hat beside it."""
    names = ["theta", "theta_hat"] if job.config.rank.algorithm == 1 else ["theta"]
    if job.config.rank.use_peft:
        return lora_players(job.load_model(False), job.config.rank, names, job.config.seed)
    return full_players(job.load_model(True), job.config.rank, names, compute_dtype(job.config))
