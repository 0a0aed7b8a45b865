"""The released method scores rows by when they were last visited; ours do not."""

import numpy as np
import pytest
import torch

from helpers.tiny import VOCABULARY, random_rows, tiny_model
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.data.batches import Batches
from sealtune.data.encoded import Encoded
from sealtune.ranking import methods
from sealtune.ranking.job import Job
from sealtune.ranking.loop import SealLoop
from sealtune.ranking.methods import seal, seal_released

ROWS, BATCH, EPOCHS = 2000, 4, 3


class NoisyPlayer:
    """Losses that fall during training and carry no information about the rows, which are exchangeable."""

    def __init__(self):
        self.random = torch.Generator().manual_seed(1)
        self.steps = 0

    def learn(self, batch, weights):
        noise = torch.randn(len(batch.rows), generator=self.random, dtype=torch.float64)
        return 2 + 2 * 0.998**self.steps + 0.3 * noise

    def descend(self):
        self.steps += 1

    def state_dict(self):
        return {}


def job(rows=ROWS, **settings):
    block = {"per_device_train_batch_size": BATCH, "num_train_epochs": EPOCHS, **settings}
    config = build_config({"model_name_or_path": "tiny", "rank": block})
    return Job(random_rows(rows), random_rows(20, 1, "safe"), config, lambda full: tiny_model())


def last_visits():
    """The step at which each row was last in a batch."""
    batches, visits = Batches(random_rows(ROWS), BATCH, seed=0), np.zeros(ROWS)
    for step in range(batches.per_epoch * EPOCHS):
        visits[batches.at(step).rows.numpy()] = step
    return visits


def rank_correlation(a, b):
    return np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1]


def recency(method, monkeypatch):
    monkeypatch.setattr(method, "make_players", lambda job, names: {"theta": NoisyPlayer()})
    return rank_correlation(method.rank(job()).score, last_visits())


@pytest.mark.slow
def test_the_released_method_shows_the_recency_artefact(monkeypatch):
    # All rows rise by one learning rate per step, except for some hundred steps after a visit, while Adam remembers how
    # large the gradient was: a row visited just now has not had that pause yet.
    assert recency(seal_released, monkeypatch) > 0.6


@pytest.mark.slow
def test_seal_has_no_recency_artefact(monkeypatch):
    assert abs(recency(seal, monkeypatch)) < 0.05


def test_the_default_has_no_recency_artefact():
    """Rows of one length are processed in the order of their ids; their contents are random."""
    random = np.random.default_rng(0)
    parts = [(random.integers(3, VOCABULARY, 12).astype(np.int32), np.arange(12) >= 5) for _ in range(ROWS)]
    rows = Encoded.join([f"row-{i:04d}" for i in range(ROWS)], ["made"] * ROWS, parts)
    config = build_config({"model_name_or_path": "tiny", "rank": {"per_device_train_batch_size": 16}})
    default = Job(rows, random_rows(20, 1, "safe"), config, lambda full: tiny_model())
    assert config.rank.method == "probe"
    assert abs(rank_correlation(methods.rank(default).score, np.arange(ROWS))) < 0.05


def test_the_config_cannot_change_what_the_released_method_fixes(monkeypatch):
    seen = []
    monkeypatch.setattr(SealLoop, "finish", lambda ranking, on_step, resume: seen.append(ranking))
    seal_released.rank(job(8, algorithm=1, weighting="sigmoid", gamma_schedule="constant", gamma=0.1))
    (ranking,) = seen
    assert list(ranking.players) == ["theta"]
    assert (ranking.selector.omega == 0.1).all()
    assert ranking.selector.update.rate == 5e-3
    assert ranking.selector.all_weights().tolist() == pytest.approx([1] * 8)
    assert [record.gamma for record in ranking.run()] == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])


def test_a_gamma_that_would_reach_one_is_refused():
    with pytest.raises(UserError, match="below 1 is needed"):
        seal_released.rank(job(8, gamma_schedule="constant", gamma=0.5))


def test_a_resumed_ranking_ends_equal():
    whole, states = job(8), []
    first = Job(**vars(whole) | {"on_step": lambda record, total, state: states.append(state())})
    scores = seal_released.rank(first)
    assert len(states) == 6
    halted = {}
    with pytest.raises(StopIteration):
        seal_released.rank(Job(**vars(whole) | {"on_step": lambda *step: stop_at(3, halted, *step)}))
    resumed = seal_released.rank(Job(**vars(whole) | {"resume": halted}))
    assert np.array_equal(resumed.score, scores.score)


def stop_at(step, halted, record, total, state):
    if record.step == step:
        halted.update({name: value.clone() for name, value in state().items()})
        raise StopIteration
