import numpy as np
import pytest

from sealtune.contamination import ENOUGH, estimate
from sealtune.records import Contamination


def margins(share, n=2000, apart=3.5, safe=1000, seed=0):
    """Margins of n candidates, ``share`` of them unsafe and ``apart`` deviations lower, and of safe rows."""
    random = np.random.default_rng(seed)
    unsafe = int(share * n)
    candidates = np.concatenate([random.normal(-apart, 1, unsafe), random.normal(0, 1, n - unsafe)])
    return random.permutation(candidates) * 7 + 40, random.normal(0, 1, safe) * 7 + 40


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_separate_group_is_measured_to_five_points(share, seed):
    found = estimate(*margins(share, seed=seed))
    assert found.found
    assert found.share == pytest.approx(share, abs=0.05)
    assert found.low <= share <= found.high


@pytest.mark.parametrize("seed", range(3))
def test_groups_that_overlap_are_a_lower_bound(seed):
    found = estimate(*margins(0.35, apart=1.5, n=2000, seed=seed))
    assert found.found
    assert 0.1 < found.share < 0.35
    assert found.low < 0.35


@pytest.mark.parametrize("rows", [(800, 400), (90, 64), (3000, 1000)])
def test_chance_is_seldom_believed(rows):
    """Clean candidates that are like the safe set; commonly they are better, and then nothing is found."""
    found = [estimate(*margins(0, rows[0], safe=rows[1], seed=seed)) for seed in range(60)]
    assert sum(one.found for one in found) <= 5
    better = [estimate(margins(0, rows[0], seed=s)[0] + 2, margins(0, safe=rows[1], seed=s)[1]) for s in range(60)]
    assert not any(one.found for one in better)


@pytest.mark.parametrize("seed", range(4))
def test_two_kinds_of_safe_rows_are_not_taken_for_harm(seed):
    """Two benign tasks make two groups as clear as any; the safe set has both."""
    random = np.random.default_rng(seed)
    kinds = np.concatenate([random.normal(-4, 1, 400), random.normal(0, 1, 400)])
    assert not estimate(kinds, kinds[::4] + 1e-9).found


def test_many_rows_are_looked_at_by_quantiles():
    few, many = (estimate(*margins(0.2, n=n, safe=2000)) for n in (ENOUGH, 20 * ENOUGH))
    assert many.share == pytest.approx(0.2, abs=0.03)
    assert many.high - many.low < few.high - few.low, "all rows count in the interval"


def test_rows_without_a_margin_do_not_count():
    margin, safe = margins(0.2)
    assert estimate(np.concatenate([margin, [np.nan] * 99]), safe) == estimate(margin, safe)


def test_what_cannot_be_told_has_a_wide_interval():
    found = estimate(*margins(0.2, apart=0.0, n=30, safe=15))
    assert not found.found
    assert found.high > 0.2


def test_nothing_to_go_by():
    for margin, safe in ((np.ones(1), np.ones(1)), (np.arange(5.0), np.empty(0)), (np.full(4, np.nan), np.ones(3))):
        assert estimate(margin, safe) == Contamination(0, 0, 1, False)
    assert not estimate(np.zeros(9), np.zeros(3)).found
