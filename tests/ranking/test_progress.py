"""A row whose loss is NaN is ranked last and affects no other row; too many such rows stop the ranking."""

import numpy as np
import pytest
import torch

from helpers.tiny import random_rows, tiny_model
from sealtune.core.config import RankConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import RunError
from sealtune.data.batches import Batch
from sealtune.data.encoded import Encoded
from sealtune.models.adapters import lora_players
from sealtune.ranking import methods
from sealtune.ranking.job import Job
from sealtune.ranking.progress import effective_share

BAD = 299
"""A token whose embedding is NaN."""


def broken_model():
    model = tiny_model(tie_word_embeddings=False)
    model.model.embed_tokens.weight.data[BAD] = torch.nan
    return model


def rows_with(bad, n=12, prefix="row"):
    """Random rows; those at ``bad`` hold the token."""
    rows = random_rows(n, 3, prefix)
    parts = []
    for i in range(n):
        tokens, mask = (array.copy() for array in rows.row(i))
        tokens[tokens == BAD] = 5
        if i in bad:
            tokens[0] = BAD
        parts.append((tokens, mask))
    return Encoded.join(list(rows.ids), ["made"] * n, parts)


def rank(method, candidates, safe, **settings):
    rank = {"method": method, "learning_rate": 0.01, "per_device_train_batch_size": 4, "num_train_epochs": 2}
    config = build_config({"model_name_or_path": "m", "output_dir": "o", "dtype": "float32", "rank": rank | settings})
    return methods.rank(Job(candidates, safe, config, lambda full: broken_model()))


@pytest.mark.parametrize("method", ["seal", "seal_released", "probe", "excess_loss", "loss", "gradient"])
@pytest.mark.parametrize("algorithm", [1, 2])
def test_one_non_finite_row_is_ranked_last_and_affects_no_other(method, algorithm):
    if algorithm == 1 and method != "seal":
        pytest.skip("only seal has two algorithms")
    safe = rows_with({1}, 6, "safe")
    scores = rank(method, rows_with({4}), safe, max_non_finite=0.2, algorithm=algorithm)
    assert scores.non_finite == (scores.ids[4],)
    assert np.argmin(scores.score) == 4
    assert np.isfinite(scores.score).all()
    others = np.arange(12) != 4
    assert np.isfinite(scores.loss[others]).all() and not np.isfinite(scores.loss[4])
    assert len(np.unique(scores.score[others])) == 11


@pytest.mark.parametrize("method", ["seal", "probe", "excess_loss", "loss", "gradient"])
def test_too_many_non_finite_rows_stop_the_ranking_and_are_named(method):
    with pytest.raises(RunError, match=r"2 of 12 rows is not finite \(row-00\d, row-00\d\); lower rank.learning_rate"):
        rank(method, rows_with({4, 7}), rows_with((), 6, "safe"), max_non_finite=0.1)
    if method == "loss":  # it has no safe set
        return
    with pytest.raises(RunError, match=r"1 of 6 rows is not finite \(safe-002\)"):
        rank(method, rows_with(()), rows_with({2}, 6, "safe"))


def test_a_non_finite_row_does_not_contribute_to_the_gradient():
    good = rows_with(())
    for rows, weights in ((rows_with({2}), torch.ones(4)), (good, torch.tensor([1.0, 1.0, 0.0, 1.0]))):
        player = lora_players(broken_model(), RankConfig(), ["theta"], seed=0)["theta"]
        losses = player.learn(Batch(torch.arange(4), rows), weights)
        gradient = torch.cat([p.grad.flatten() for p in player.parameters])
        if rows is not good:
            found = gradient
            assert losses.isnan().tolist() == [False, False, True, False]
    torch.testing.assert_close(found, gradient)


def test_the_effective_share_is_one_for_equal_weights_and_one_row_for_one_that_counts():
    assert effective_share(torch.full((8,), 0.3)) == pytest.approx(1)
    assert effective_share(torch.tensor([1.0, 0, 0, 0])) == pytest.approx(1 / 4)
    assert effective_share(torch.tensor([3.0, 1.0])) == pytest.approx(16 / 20)
    assert effective_share(torch.zeros(3)) == 0
