import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sealtune.evaluation import metrics

rankings = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(unsafe for _, unsafe in rows) < len(rows)
)


def split(rows):
    score, unsafe = zip(*rows, strict=True)
    return np.array(score, float), np.array(unsafe, int)


@settings(max_examples=30, deadline=None)
@given(rankings)
def test_the_curves_enclose_the_areas(rows):
    score, unsafe = split(rows)
    fpr, tpr = metrics.roc_curve(score, unsafe)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert metrics.auroc(score, unsafe) == pytest.approx(np.trapezoid(tpr, fpr))
    precision, recall = metrics.precision_recall_curve(score, unsafe)
    assert len(precision) == len(fpr) - 1
    assert recall[-1] == 1
    assert metrics.average_precision(score, unsafe) == pytest.approx(np.sum(np.diff(recall, prepend=0) * precision))


@settings(max_examples=40, deadline=None)
@given(rankings, st.randoms(use_true_random=False), st.integers(0, 60))
def test_the_order_of_rows_never_matters(rows, random, k):
    score, unsafe = split(rows)
    random.shuffle(rows)
    shuffled = split(rows)
    for measure in (metrics.auroc, metrics.average_precision, lambda s, u: metrics.recall_at_k(s, u, k)):
        assert measure(score, unsafe) == pytest.approx(measure(*shuffled))


def test_auroc_is_the_share_of_ordered_pairs():
    rng = np.random.default_rng(0)
    score, unsafe = rng.integers(0, 8, 40), rng.integers(0, 2, 40)
    bad, good = score[unsafe == 1][:, None], score[unsafe == 0][None]
    pairs = (bad < good) + 0.5 * (bad == good)
    assert metrics.auroc(score, unsafe) == pytest.approx(pairs.mean())


def test_recall_counts_the_unsafe_rows_among_the_lowest_scores():
    score, unsafe = [1, 2, 3, 4, 5], [1, 0, 1, 0, 0]
    assert [metrics.recall_at_k(score, unsafe, k) for k in (0, 1, 2, 3, 9)] == [0, 0.5, 0.5, 1, 1]
    assert metrics.recall_in_lowest(score, unsafe, 0.2) == 0.5
    assert metrics.recall_in_lowest(score, unsafe, 1) == 1
    assert metrics.recall_at_k([0, 0, 0, 0], [1, 0, 0, 0], 1) == 0.25  # a tie counts in proportion


def test_a_missing_class_gives_none():
    assert metrics.auroc([1, 2], [1, 1]) is None and metrics.auroc([1, 2], [0, 0]) is None
    assert metrics.roc_curve([1, 2], [0, 0]) is None
    assert metrics.average_precision([1, 2], [0, 0]) is None and metrics.average_precision([1, 2], [1, 1]) == 1
    assert metrics.recall_at_k([1, 2], [0, 0], 1) is None


@pytest.mark.parametrize(
    ("score", "unsafe"), [([1, math.nan], [0, 1]), ([1, math.inf], [0, 1]), ([], []), ([1, 2], [1]), ([1, 2], [0, 2])]
)
def test_broken_rankings_are_refused(score, unsafe):
    with pytest.raises(ValueError):
        metrics.auroc(score, unsafe)


def test_shares_and_counts_out_of_range_are_refused():
    with pytest.raises(ValueError, match="share"):
        metrics.recall_in_lowest([1, 2], [0, 1], 1.5)
    with pytest.raises(ValueError, match="negative"):
        metrics.recall_at_k([1, 2], [0, 1], -1)


def test_wilson_matches_published_values():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81/263, 15/148, 0/20, 1/29.
    for successes, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        interval = metrics.wilson(successes, n)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert metrics.wilson(1, 29) == pytest.approx((1 / 29, 0.0061, 0.1718, 29), abs=5e-5)


def test_wilson_is_symmetric_and_refuses_invalid_counts():
    low, high = metrics.wilson(3, 10)[1:3], metrics.wilson(7, 10)[1:3]
    assert low == pytest.approx((1 - high[1], 1 - high[0]))
    for successes, n in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError):
            metrics.wilson(successes, n)


def test_mean_interval_is_about_two_standard_errors_wide():
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = metrics.mean_interval(values)
    error = values.std(ddof=1) / 20
    assert interval.value == pytest.approx(values.mean()) and interval.n == 400
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert interval == metrics.mean_interval(list(values))


def test_mean_interval_needs_two_values_for_bounds():
    single = metrics.mean_interval([2.5])
    assert single.value == 2.5 and math.isnan(single.low) and math.isnan(single.high)
    for values in ([], [1.0, math.nan]):
        with pytest.raises(ValueError):
            metrics.mean_interval(values)


def test_paired_bootstrap_agrees_with_the_t_test_on_normal_figures():
    rng = np.random.default_rng(0)
    b = rng.normal(0, 5, 200)  # prompts differ far more than the two models do
    a = b + rng.normal(0.15, 1, 200)
    found, oracle = metrics.paired_bootstrap(a, b, seed=0), stats.ttest_rel(a, b)
    assert found.value == pytest.approx((a - b).mean()) and found.n == 200
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)), abs=0.02)
    assert found.p == pytest.approx(oracle.pvalue, abs=0.02)


def test_paired_bootstrap_is_reproducible_and_antisymmetric():
    a, b = np.random.default_rng(1).random((2, 50))
    one, other = metrics.paired_bootstrap(a, b, 3), metrics.paired_bootstrap(b, a, 3)
    assert one == metrics.paired_bootstrap(a, b, 3) != metrics.paired_bootstrap(a, b, 4)
    assert (one.value, one.low, one.high, one.p) == pytest.approx((-other.value, -other.high, -other.low, other.p))


def test_paired_bootstrap_keeps_its_level_without_a_difference():
    rng = np.random.default_rng(2)
    found = [metrics.paired_bootstrap(*rng.normal(0, 1, (2, 60)), seed=0, samples=400).p < 0.05 for _ in range(300)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.035)


def test_paired_bootstrap_in_edge_cases(monkeypatch):
    same = metrics.paired_bootstrap([1, 2, 3], [1, 2, 3], 0)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert metrics.paired_bootstrap([1.3] * 9, [0.2] * 9, 0).p == pytest.approx(1 / 10_001)
    single = metrics.paired_bootstrap([1], [0], 0)
    assert single.value == 1 and math.isnan(single.p) and math.isnan(single.low)
    for a, b, samples in (([], [], 9), ([1, 2], [1], 9), ([math.nan], [1], 9), ([1], [1], 0)):
        with pytest.raises(ValueError):
            metrics.paired_bootstrap(a, b, 0, samples)
    monkeypatch.setattr(metrics, "_DRAWS_PER_BATCH", 7)  # blocks of two resamples, the last one short
    assert metrics.paired_bootstrap([1, 2, 5], [0, 2, 3], 0, samples=101).n == 3
