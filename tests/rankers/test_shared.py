import pytest
import torch

from sealtune import rankers
from sealtune.config import build_config
from sealtune.rankers.shared import Study
from sealtune.scorer import margins
from tiny import random_rows, tiny_model


def study(safe, **settings):
    block = {"method": "shared", "per_device_train_batch_size": 4, "learning_rate": 0.02} | settings
    config = build_config({"model_name_or_path": "tiny", "rank": block})
    made = Study(rankers.Job(random_rows(24), safe, config, lambda full: tiny_model(initializer_range=0.1)))
    return made, *made.run()


def untouched(rows):
    config = build_config({"model_name_or_path": "tiny", "rank": {"method": "loss"}})
    job = rankers.Job(rows, rows, config, lambda full: tiny_model(initializer_range=0.1))
    return torch.from_numpy(rankers.rank(job).loss)


def test_safe_rows_count_in_the_margins_as_if_theta_had_half_learned_them():
    safe = random_rows(10, 1, "safe")
    made, _, learned = study(safe)
    assert made.steps == 3 * 3, "met three times"
    first = made.batches.at(0).rows
    assert made.first_losses[first].tolist() == pytest.approx(untouched(safe)[first].tolist(), abs=1e-4)
    assert made.first_losses.isfinite().all() and (made.first_losses > learned.losses).all()
    unlearned = made.unlearned(learned)
    assert torch.equal(unlearned.losses, (made.first_losses + learned.losses) / 2)
    assert torch.equal(unlearned.states, learned.states)


def test_the_estimate_goes_by_the_losses_of_rows_that_were_not_learned():
    made, candidates, learned = study(random_rows(10, 1, "safe"))
    config = made.job.config
    kept = rankers.rank(rankers.Job(made.job.candidates, made.job.safe, config, made.job.load_model)).selector
    expected = margins(candidates, made.unlearned(learned), config.seed)[1]
    assert kept["safe_margin"] == pytest.approx(expected.numpy(), abs=1e-4)
    assert margins(candidates, learned, config.seed)[1].mean() > expected.mean()
