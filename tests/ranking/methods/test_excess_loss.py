import numpy as np
import pytest

from helpers.tiny import random_rows, tiny_model
from sealtune.core.config_io import build_config
from sealtune.data.encoded import Encoded
from sealtune.ranking import methods
from sealtune.ranking.job import Job


def lively_model():
    """Weights large enough that an adapter can move the losses by half a nat."""
    return tiny_model(initializer_range=0.1)


def rank(candidates, safe, model=tiny_model, **settings):
    block = {"method": "excess_loss", "per_device_train_batch_size": 4, "learning_rate": 0.02} | settings
    config = build_config({"model_name_or_path": "tiny", "rank": block})
    records = []
    job = Job(candidates, safe, config, lambda full: model(), lambda *step: records.append(step))
    return methods.rank(job), records


def rows_of(n, words, seed, prefix):
    random = np.random.default_rng(seed)
    parts = [(random.integers(*words, 32), np.arange(32) >= 4) for _ in range(n)]
    return Encoded.join([f"{prefix}-{i:03d}" for i in range(n)], ["made"] * n, parts)


def test_rows_like_the_safe_set_score_above_others():
    like, unlike = rows_of(30, (3, 20), 0, "like"), rows_of(30, (150, 300), 1, "unlike")
    scores, _ = rank(like.extend(unlike), rows_of(120, (3, 20), 2, "safe"), model=lively_model)
    assert (scores.score[:30, None] > scores.score[30:]).mean() > 0.95
    assert scores.gap[:30].mean() < -0.2


def test_the_score_is_loss_before_minus_loss_after():
    rows, safe = random_rows(11), random_rows(6, 1, "safe")
    scores, _ = rank(rows, safe)
    config = build_config({"model_name_or_path": "tiny", "rank": {"method": "loss"}})
    untouched = methods.rank(Job(rows, safe, config, lambda full: tiny_model()))
    assert scores.loss - scores.gap == pytest.approx(untouched.loss, abs=1e-5)
    assert np.array_equal(scores.score, -scores.gap)


def test_progress_reports_two_passes_and_one_epoch():
    rows, safe = random_rows(11), random_rows(6, 1, "safe")
    _, records = rank(rows, safe, num_train_epochs=3)
    assert [record.step for record, _, _ in records] == list(range(1, 9))
    assert {total for _, total, _ in records} == {8}
    rows_seen = [record.rows for record, _, _ in records]
    assert rows_seen[:3] == rows_seen[5:] == [4, 4, 3] and sum(rows_seen[3:5]) == 6
    assert sum(record.tokens for record, _, _ in records) == 2 * len(rows.tokens) + len(safe.tokens)
    assert [record.safe_loss is None for record, _, _ in records] == [True] * 3 + [False] * 2 + [True] * 3
    assert all(state() == {} for _, _, state in records)


def test_dropout_is_active_only_while_training_and_repeats():
    rows, safe = random_rows(11), random_rows(6, 1, "safe")
    plain, noisy, again = (rank(rows, safe, lora_dropout=p)[0] for p in (0.0, 0.5, 0.5))
    assert np.array_equal(noisy.score, again.score)
    assert not np.array_equal(plain.score, noisy.score)
    assert noisy.loss - noisy.gap == pytest.approx(plain.loss - plain.gap)
