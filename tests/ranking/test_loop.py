import dataclasses
import math

import numpy as np
import pytest
import torch

from helpers.tiny import random_rows, tiny_model
from sealtune.core.config import RankConfig
from sealtune.core.errors import RunError
from sealtune.data.batches import Batches
from sealtune.models.adapters import lora_players
from sealtune.ranking.loop import EpochVariance, SealLoop, rank_correlation
from sealtune.ranking.selector import FreeLogits, Mirror


def make_loop(candidates=13, safe=3, **changes):
    settings = RankConfig(
        **({"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 0.01} | changes)
    )
    names = ["theta", "theta_hat"] if settings.algorithm == 1 else ["theta"]
    players = lora_players(tiny_model(), settings, names, seed=0)
    selector = FreeLogits(candidates, Mirror())
    return SealLoop(random_rows(candidates), random_rows(safe, 1, "safe"), players, selector, settings, seed=5)


def test_every_row_is_visited_once_an_epoch_whatever_the_size_of_the_safe_set():
    for safe in (1, 3, 40):
        loop = make_loop(safe=safe)
        records = list(loop.run())
        assert loop.last_seen.visits.tolist() == [2] * 13
        assert len(records) == loop.total_steps == 8
        assert not loop.last_seen.loss.isnan().any()


def test_records_hold_gamma_losses_and_gap():
    first, *_, last = make_loop(algorithm=1).run()
    assert (first.gamma, last.gamma) == (0.0, 0.03)
    assert first.gap == pytest.approx(0, abs=1e-5)  # both players start equal
    assert last.gap == pytest.approx(last.candidate_loss - last.hat_loss)
    assert last.safe_loss < first.safe_loss
    assert {r.gap for r in make_loop().run()} == {None}


@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("stop, dropout", [(1, 0.0), (4, 0.0), (6, 0.3)])
def test_a_resumed_ranking_ends_bit_for_bit_equal(algorithm, stop, dropout):
    settings = {"algorithm": algorithm, "lora_dropout": dropout}
    whole, first, second = (make_loop(**settings) for _ in range(3))
    whole_records = list(whole.run())
    steps = first.run()
    for _ in range(stop):
        next(steps)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    rest = list(second.run())
    assert torch.equal(whole.selector.omega, second.selector.omega)
    assert torch.equal(whole.last_seen.loss, second.last_seen.loss)
    assert [r.step for r in rest] == list(range(stop + 1, 9))
    assert dataclasses.replace(rest[-1], seconds=0) == dataclasses.replace(whole_records[-1], seconds=0)


def test_non_finite_losses_name_the_rows():
    loop = make_loop()
    steps = loop.run()
    next(steps)
    loop.players["theta"].parameters[0].data.fill_(torch.nan)
    with pytest.raises(RunError, match=r"of 13 rows is not finite \(row-\d{3}"):
        next(steps)


def test_batches_depend_only_on_the_seed_and_the_step():
    rows = random_rows(50)
    a, b = Batches(rows, 4, seed=1), Batches(rows, 4, seed=1)
    b.at(40)
    assert torch.equal(a.at(7).rows, b.at(7).rows)
    assert not torch.equal(a.at(0).rows, Batches(rows, 4, seed=2).at(0).rows)
    epoch = torch.cat([a.at(i).rows for i in range(a.per_epoch)])
    assert sorted(epoch.tolist()) == list(range(50))


def test_rows_of_similar_length_share_a_batch():
    rows = random_rows(200)
    batches = Batches(rows, 8, seed=0)
    pieces = [next(batches.at(i).split(8)) for i in range(batches.per_epoch)]
    padded = sum(p.tokens.numel() for p in pieces)
    assert padded < 1.05 * rows.lengths.sum()
    for piece in pieces:
        assert piece.mask.sum() > 0
    width = int(np.max(rows.lengths))
    assert max(p.tokens.shape[1] for p in pieces) == width


def test_the_standard_error_is_pooled_over_the_parts_that_the_epochs_add():
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(4, 50, generator=generator, dtype=torch.float64) + torch.arange(4)[:, None]
    variance = EpochVariance(torch.full((50,), 0.1, dtype=torch.float64))
    omega = torch.full((50,), 0.1, dtype=torch.float64)
    for part in parts:
        omega = omega + part
        variance.end_epoch(omega)
    centred = parts - parts.mean(1, keepdim=True)
    assert variance.standard_error() == pytest.approx((4 * centred.var(dim=0).mean()).sqrt().item())
    once = EpochVariance(torch.zeros(3, dtype=torch.float64))
    once.end_epoch(torch.ones(3, dtype=torch.float64))
    assert math.isnan(once.standard_error())


def test_ranking_stops_once_an_epoch_no_longer_changes_it():
    whole, stopped, never = (make_loop(num_train_epochs=5, stop_when_stable=wanted) for wanted in (None, 1e-9, 1.0))
    assert len(list(whole.run())) == len(list(never.run())) == 20
    assert len(list(stopped.run())) == 8  # two epochs of four steps: the first has nothing to be compared with
    assert stopped.last_seen.visits.tolist() == [2] * 13


def test_a_stopped_ranking_stays_stopped_after_a_resume():
    stopped, resumed = make_loop(num_train_epochs=5, stop_when_stable=1e-9), make_loop(num_train_epochs=5)
    list(stopped.run())
    resumed.load_state_dict(stopped.state_dict())
    resumed.settings = stopped.settings
    assert list(resumed.run()) == []


def test_rank_correlation_is_spearmans():
    left = torch.tensor([0.1, 5.0, 2.0, 3.0])
    assert float(rank_correlation(left, left**3)) == pytest.approx(1)
    assert float(rank_correlation(left, -left)) == pytest.approx(-1)
    assert float(rank_correlation(left, torch.tensor([2.0, 1.0, 3.0, 4.0]))) == pytest.approx(1 - 6 * 12 / 60)
