"""What holds for every ranker: one finite score per id, same seed same scores, and the order of the rows is ignored."""

from pathlib import Path

import numpy as np
import pytest

from helpers.tiny import random_rows, tiny_model
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.ranking import methods
from sealtune.ranking.job import Job

SETTINGS = {"imported": {"scores": str(Path(__file__).parents[2] / "fixtures" / "scores.csv")}}
"""What a ranker cannot do without."""
CASES = [(name, SETTINGS.get(name, {})) for name in methods.names()] + [
    ("seal", {"algorithm": 1}),
    ("seal", {"algorithm": 1, "use_peft": False}),
    ("seal", {"selector_update": "adam", "weighting": "sigmoid"}),
    ("seal", {"gamma_schedule": "constant", "gamma": 0.5, "safe_batch_size": 2}),
]


def rank(candidates, method, settings, seed=0, safe=None):
    block = {"method": method, "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 0.01}
    config = build_config({"model_name_or_path": "tiny", "seed": seed, "rank": block | settings})
    steps = []
    job = Job(
        candidates,
        safe or random_rows(5, 1, "safe"),
        config,
        lambda full: tiny_model(),
        lambda record, total, state: steps.append((record.step, total)),
    )
    scores = methods.rank(job)
    assert not steps or steps[-1][0] == steps[-1][1]
    return scores


@pytest.mark.parametrize("method, settings", CASES)
def test_one_finite_score_an_id_in_input_order(method, settings):
    candidates = random_rows(11)
    scores = rank(candidates, method, settings)
    assert scores.ids == candidates.ids
    assert scores.source == candidates.source
    assert np.isfinite(scores.score).all()
    assert len(set(scores.score.tolist())) > 1
    if settings.get("weighting") != "sigmoid":
        assert scores.weight.mean() == pytest.approx(1)


@pytest.mark.parametrize("method, settings", CASES)
def test_same_seed_same_scores_and_permuting_changes_nothing(method, settings):
    candidates, safe = random_rows(11), random_rows(5, 1, "safe")
    order = np.random.default_rng(0).permutation(11)
    first = rank(candidates, method, settings, safe=safe)
    again = rank(candidates.take(order), method, settings, safe=safe.take([4, 2, 0, 1, 3]))
    assert again.ids == tuple(candidates.ids[i] for i in order)
    assert first.by_id() == again.by_id()


def test_the_seed_matters_to_random():
    rows = random_rows(11)
    assert rank(rows, "random", {}).by_id() != rank(rows, "random", {}, seed=1).by_id()


def test_loss_is_minus_the_loss():
    scores = rank(random_rows(11), "loss", {})
    assert np.array_equal(scores.score, -scores.loss)


def test_an_unknown_ranker_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'seal'"):
        methods.load_ranker("seall")
