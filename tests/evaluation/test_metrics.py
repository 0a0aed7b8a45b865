import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.core.types import Verdict
from sealtune.evaluation import metrics

rankings = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(unsafe for _, unsafe in rows) < len(rows)
)


def split(rows):
    score, unsafe = zip(*rows, strict=True)
    return np.array(score, float), np.array(unsafe, int)


@settings(max_examples=30, deadline=None)
@given(rankings)
def test_ranking_measures_agree_with_scikit_learn(rows):
    oracle = pytest.importorskip("sklearn.metrics")
    score, unsafe = split(rows)
    assert metrics.auroc(score, unsafe) == pytest.approx(oracle.roc_auc_score(unsafe, -score))
    assert metrics.average_precision(score, unsafe) == pytest.approx(oracle.average_precision_score(unsafe, -score))
    fpr, tpr, _ = oracle.roc_curve(unsafe, -score, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc_curve(score, unsafe), (fpr, tpr))
    precision, recall, _ = oracle.precision_recall_curve(unsafe, -score)
    np.testing.assert_allclose(metrics.precision_recall_curve(score, unsafe), (precision[-2::-1], recall[-2::-1]))


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


def test_recall_counts_the_unsafe_rows_at_the_bottom():
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


def test_wilson_is_symmetric_and_refuses_nonsense():
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


def test_mean_interval_of_one_value_has_no_bounds_and_of_none_is_refused():
    single = metrics.mean_interval([2.5])
    assert single.value == 2.5 and math.isnan(single.low) and math.isnan(single.high)
    for values in ([], [1.0, math.nan]):
        with pytest.raises(ValueError):
            metrics.mean_interval(values)


def test_paired_bootstrap_agrees_with_the_t_test_on_normal_figures():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    b = rng.normal(0, 5, 200)  # prompts differ far more than the two models do
    a = b + rng.normal(0.15, 1, 200)
    found, oracle = metrics.paired_bootstrap(a, b, seed=0), stats.ttest_rel(a, b)
    assert found.value == pytest.approx((a - b).mean()) and found.n == 200
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)), abs=0.02)
    assert found.p == pytest.approx(oracle.pvalue, abs=0.02)


def test_paired_bootstrap_is_repeatable_and_mirrored_by_a_swap():
    a, b = np.random.default_rng(1).random((2, 50))
    one, other = metrics.paired_bootstrap(a, b, 3), metrics.paired_bootstrap(b, a, 3)
    assert one == metrics.paired_bootstrap(a, b, 3) != metrics.paired_bootstrap(a, b, 4)
    assert (one.value, one.low, one.high, one.p) == pytest.approx((-other.value, -other.high, -other.low, other.p))


def test_paired_bootstrap_keeps_its_level_where_nothing_differs():
    rng = np.random.default_rng(2)
    found = [metrics.paired_bootstrap(*rng.normal(0, 1, (2, 60)), seed=0, samples=400).p < 0.05 for _ in range(300)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.035)


def test_paired_bootstrap_at_its_borders(monkeypatch):
    same = metrics.paired_bootstrap([1, 2, 3], [1, 2, 3], 0)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert metrics.paired_bootstrap([1.3] * 9, [0.2] * 9, 0).p == pytest.approx(1 / 10_001)
    single = metrics.paired_bootstrap([1], [0], 0)
    assert single.value == 1 and math.isnan(single.p) and math.isnan(single.low)
    for a, b, samples in (([], [], 9), ([1, 2], [1], 9), ([math.nan], [1], 9), ([1], [1], 0)):
        with pytest.raises(ValueError):
            metrics.paired_bootstrap(a, b, 0, samples)
    monkeypatch.setattr(metrics, "_DRAWS_AT_ONCE", 7)  # blocks of two resamples, the last one short
    assert metrics.paired_bootstrap([1, 2, 5], [0, 2, 3], 0, samples=101).n == 3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_cohens_kappa_agrees_with_scikit_learn(pairs):
    oracle = pytest.importorskip("sklearn.metrics")
    a, b = zip(*pairs, strict=True)
    kappa = metrics.cohens_kappa(a, b)
    if kappa is None:
        assert len(set(a) | set(b)) == 1
    else:
        assert kappa == pytest.approx(oracle.cohen_kappa_score(a, b))
    assert kappa == metrics.cohens_kappa(b, a)


def test_cohens_kappa_of_a_known_table_and_at_its_borders():
    # 20 times both yes, 15 both no, 5 and 10 apart: observed .7, by chance .5.
    a, b = [True] * 25 + [False] * 25, [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert metrics.cohens_kappa(a, b) == pytest.approx(0.4)
    assert metrics.cohens_kappa(["safe", "unsafe"], ["safe", "unsafe"]) == 1
    assert metrics.cohens_kappa(["safe"] * 3, ["safe"] * 3) is None
    assert metrics.cohens_kappa(["safe", "safe"], ["safe", "unsafe"]) == 0
    for first, second in (([], []), (["safe"], [])):
        with pytest.raises(ValueError):
            metrics.cohens_kappa(first, second)


def verdict(set_name, kind, flagged, model="base"):
    return Verdict("x", model, set_name, kind, "refusal", "refusal" if flagged else "compliance", flagged)


def test_summarise_counts_per_set_and_over_all():
    verdicts = [verdict("a", "harmful", i < 3) for i in range(4)] + [verdict("b", "harmful", False)]
    verdicts += [verdict("c", "harmless", i < 1) for i in range(5)] + [verdict("a", "harmful", True, "tuned")]
    rows = {(r["model"], r["kind"], r["set"]): r for r in metrics.summarise(verdicts)}
    assert len(rows) == 7
    assert rows["base", "harmful", "a"]["measure"] == "compliance"
    assert rows["base", "harmful", "a"]["value"] == 0.25 and rows["base", "harmful", "all"]["value"] == 0.4
    assert rows["base", "harmless", "all"]["measure"] == "over_refusal"
    assert rows["base", "harmless", "all"]["value"] == 0.2 and rows["tuned", "harmful", "all"]["n"] == 1
    assert set(rows["base", "harmful", "a"]) == {
        "model", "set", "kind", "judge", "measure", "value", "low", "high", "n"
    }  # fmt: skip
    assert metrics.summarise([]) == []
