import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sealtune.evaluation.discrimination import (
    ByKind,
    best_threshold,
    discrimination,
    refusal_rates,
    refused,
    resamples,
    thresholds,
)


def made(n=60, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return ByKind(rng.normal(shift, 1, n).round(1), rng.normal(0, 1, n + 20).round(1))


def test_discrimination_is_the_area_under_the_roc_curve_also_of_every_resample():
    odds = made()
    shares = resamples(60, 80, samples=20)
    found = discrimination(odds, shares)
    labels = np.repeat([1, 0], [60, 80])
    assert found.value == pytest.approx(roc_auc_score(labels, np.concatenate(odds)))
    for s in range(20):
        counts = np.concatenate([shares.harmful[s] * 60, shares.harmless[s] * 80])
        expected = roc_auc_score(labels, np.concatenate(odds), sample_weight=counts)
        assert found.draws[s] == pytest.approx(expected)


def test_j_is_the_difference_of_the_rates():
    odds = made()
    harmful, harmless, j = refusal_rates(refused(odds, (0.5, 0.5)), resamples(60, 80))
    assert harmful.value == (odds.harmful > 0.5).mean()
    assert j.value == pytest.approx(harmful.value - (odds.harmless > 0.5).mean())
    interval = j.interval()
    assert interval.low < j.value < interval.high
    assert (harmful.n, harmless.n, interval.n) == (60, 80, 140)


def test_a_pair_of_models_is_compared_in_the_same_resamples():
    start, shares = made(), resamples(60, 80)
    shifted = ByKind(start.harmful - 0.05, start.harmless)
    before, after = discrimination(start, shares), discrimination(shifted, shares)
    paired = after.minus(before)
    assert paired.value == pytest.approx(after.value - before.value)
    assert paired.high - paired.low < 0.25 * (before.interval().high - before.interval().low)
    assert before.minus(before) == (0, 0, 0, 1, 140)
    assert discrimination(ByKind(start.harmful - 3, start.harmless), shares).minus(before).p < 0.01


def test_the_best_threshold_has_the_largest_j_and_is_the_one_closest_to_zero():
    assert best_threshold(ByKind(np.array([3.0, 4.0]), np.array([-4.0, -1.0]))) == 1
    odds = made()
    cut = best_threshold(odds)
    best = max((odds.harmful > c).mean() - (odds.harmless > c).mean() for c in np.linspace(-5, 5, 1001))
    assert (odds.harmful > cut).mean() - (odds.harmless > cut).mean() == pytest.approx(best)


def test_the_threshold_does_not_flatter_the_start_model():
    """On log-odds without any signal, J is 0 on average; a threshold chosen on the same prompts finds one."""
    own, crossed = [], []
    for seed in range(200):
        odds = made(20, shift=0, seed=seed)
        crossed.append(refusal_rates(refused(odds, thresholds(odds)), resamples(20, 40, samples=2))[2].value)
        own.append(refusal_rates(refused(odds, (best_threshold(odds),)), resamples(20, 40, samples=2))[2].value)
    assert np.mean(own) > 0.1
    assert abs(np.mean(crossed)) < 3 * np.std(crossed) / len(crossed) ** 0.5


def test_each_fold_takes_the_threshold_of_the_other():
    odds = ByKind(np.array([1.0, 101.0, 1.0, 101.0]), np.array([-1.0, 99.0, -1.0, 99.0]))
    assert thresholds(odds) == (100, 0)
    assert [values.tolist() for values in refused(odds, (0, 100))] == [[1, 1, 1, 1], [0, 0, 0, 0]]


def test_without_a_start_model_the_threshold_is_zero():
    assert thresholds(None) == (0, 0)
    assert thresholds(ByKind(np.array([1.0]), np.array([2.0, 3.0]))) == (0, 0)
