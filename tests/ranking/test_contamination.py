import numpy as np
import pytest

from sealtune.core.types import Contamination
from sealtune.ranking.contamination import MAX_THRESHOLDS, estimate


def logits(share, n=2000, apart=3.5, safe=1000, seed=0):
    """Logits of n candidates, a ``share`` of which is unsafe and ``apart`` deviations lower, and of safe rows."""
    random = np.random.default_rng(seed)
    unsafe = int(share * n)
    candidates = np.concatenate([random.normal(-apart, 1, unsafe), random.normal(0, 1, n - unsafe)])
    return random.permutation(candidates) * 7 + 40, random.normal(0, 1, safe) * 7 + 40


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_separate_group_is_measured_to_five_points(share, seed):
    found = estimate(*logits(share, seed=seed))
    assert found.significant
    assert found.share == pytest.approx(share, abs=0.05)
    assert found.low <= share <= found.high


def test_groups_that_overlap_are_bounded_from_below():
    found = [estimate(*logits(0.35, apart=1.5, seed=seed)) for seed in range(10)]
    assert all(one.significant for one in found)
    assert 0.1 < np.mean([one.share for one in found]) < 0.3
    assert all(one.low < one.share < 0.35 for one in found)


def test_on_few_rows_the_lower_end_is_the_bound():
    found = [estimate(*logits(0.2, n=90, safe=64, seed=seed)) for seed in range(40)]
    assert np.mean([one.significant for one in found]) > 0.9
    assert np.mean([one.share for one in found]) == pytest.approx(0.2, abs=0.08)
    assert np.mean([one.low <= 0.2 <= one.high for one in found]) > 0.9


@pytest.mark.parametrize("rows", [(800, 400), (90, 64), (3000, 1000)])
def test_chance_is_rarely_significant(rows):
    """Clean candidates like the safe set; usually they look better, and then nothing is significant."""
    found = [estimate(*logits(0, rows[0], safe=rows[1], seed=seed)) for seed in range(60)]
    assert sum(one.significant for one in found) <= 5
    better = [estimate(logits(0, rows[0], seed=s)[0] + 2, logits(0, safe=rows[1], seed=s)[1]) for s in range(60)]
    assert not any(one.significant for one in better)


def test_two_kinds_of_safe_rows_are_not_mistaken_for_harm():
    """Two benign tasks form two well separated groups; the safe set contains both."""
    found = []
    for seed in range(30):
        random = np.random.default_rng(seed)
        tasks, safe = (np.concatenate([random.normal(-4, 1, n), random.normal(0, 1, n)]) for n in (400, 100))
        found.append(estimate(tasks, safe).significant)
    assert sum(found) <= 3


def test_many_rows_are_summarised_by_quantiles():
    few, many = (estimate(*logits(0.2, n=n, safe=2000)) for n in (MAX_THRESHOLDS, 20 * MAX_THRESHOLDS))
    assert many.share == pytest.approx(0.2, abs=0.03)
    assert many.high - many.low < few.high - few.low, "all rows count in the interval"


def test_rows_without_a_logit_are_ignored():
    values, safe = logits(0.2)
    with_gaps = estimate(np.append(values, [np.nan] * 99), np.append(safe, [np.nan] * 9))
    assert with_gaps == estimate(values, safe)


def test_too_little_data_gives_a_wide_interval():
    found = estimate(*logits(0.2, apart=0.0, n=30, safe=15))
    assert not found.significant
    assert found.high > 0.2


def test_unsafe_rows_among_safe_ones_are_within_the_interval():
    """Benign tasks above the safe set, unsafe rows like its lowest fifth: none can be separated, 7 % may be unsafe."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        safe = np.sort(random.normal(0, 1, 400))
        found = estimate(np.concatenate([random.choice(safe[:80], 35), random.normal(5, 1, 465)]), safe)
        assert not found.significant
        assert found.share < 0.07 < found.high < 0.12


def test_no_evidence_still_has_an_upper_bound():
    above, alike = (np.full(9, 5.0), np.zeros(12)), (np.zeros(9), np.zeros(12))
    for values, safe in (above, alike):
        found = estimate(values, safe)
        assert (found.share, found.low, found.significant) == (0, 0, False)
        assert 0.1 < found.high < 1
    many = estimate(np.full(900, 5.0), np.zeros(1200))
    assert 0 < many.high < 0.05


def test_too_few_values_give_no_estimate():
    rows, nine, none = np.arange(50.0) - 100, np.arange(9.0), np.empty(0)
    for values, safe in ((np.ones(1), nine), (rows, none), (np.full(4, np.nan), nine), (rows, nine[:7])):
        assert estimate(values, safe) == Contamination(0, 0, 1, significant=False)
    assert estimate(rows, nine).significant
