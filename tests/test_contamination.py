import numpy as np
import pytest

from sealtune.contamination import Pair, adjusted, estimate, evidence, fit_pair
from sealtune.records import Contamination


def margins(share, n=800, apart=3.0, safe=200, seed=0):
    """Margins of n candidates, ``share`` of them unsafe and ``apart`` deviations lower, and of safe rows."""
    random = np.random.default_rng(seed)
    unsafe = int(share * n)
    candidates = np.concatenate([random.normal(-apart, 1, unsafe), random.normal(0, 1, n - unsafe)])
    return random.permutation(candidates) * 7 + 40, random.normal(0, 1, safe) * 7 + 40


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_separate_group_is_measured_to_five_points(share, seed):
    found = estimate(*margins(share, apart=3.5, seed=seed))
    assert found.found
    assert found.share == pytest.approx(share, abs=0.05)
    assert found.low <= share <= found.high


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5])
def test_groups_that_overlap_are_measured_too(share):
    """A tenth of either kind lies beyond the middle; the safe rows say how many of the safe kind do."""
    found = [estimate(*margins(share, n=2000, apart=2.6, safe=800, seed=seed)) for seed in range(6)]
    assert all(one.found for one in found)
    assert np.mean([one.share for one in found]) == pytest.approx(share, abs=0.03)


def test_counts_are_adjusted_by_the_rates_of_both_kinds():
    assert adjusted(0.3 * 0.8 + 0.7 * 0.1, 0.1, 0.8) == pytest.approx(0.3)
    assert (adjusted(0.05, 0.1, 0.8), adjusted(0.9, 0.1, 0.8), adjusted(0.2, 0.3, 0.3)) == (0, 1, 0)
    apart, near = (Pair(0.3, -gap, 0, 1.0, 0.0).lower_share() for gap in (9, 2.5))
    assert apart == pytest.approx(1, abs=1e-4)
    draws = np.random.default_rng(0).normal(-2.5, 1, 10**5)
    assert near == pytest.approx(Pair(0.3, -2.5, 0, 1.0, 0.0).membership(draws).mean(), abs=0.005)


def test_many_rows_take_no_longer_than_some_thousands():
    found = estimate(*margins(0.2, n=300_000, apart=3.5))
    assert found.share == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_clean_rows_have_no_group(seed):
    found = estimate(*margins(0, seed=seed))
    assert (found.share, found.low, found.found) == (0, 0, False)


@pytest.mark.parametrize("seed", range(4))
def test_two_kinds_of_safe_rows_are_not_taken_for_harm(seed):
    """Two benign tasks make two groups as clear as any; the safe set has both."""
    random = np.random.default_rng(seed)
    kinds = np.concatenate([random.normal(-4, 1, 400), random.normal(0, 1, 400)])
    assert estimate(kinds, kinds[::4]) == Contamination(0, 0, estimate(kinds, kinds[::4]).high, False)


def test_what_cannot_be_told_has_a_wide_interval():
    found = estimate(*margins(0.2, apart=1.0))
    assert not found.found
    assert found.high > 0.2


def test_nothing_to_go_by():
    for margin, safe in ((np.zeros(9), np.zeros(3)), (np.ones(1), np.ones(1)), (np.arange(5.0), np.empty(0))):
        assert estimate(margin, safe) == Contamination(0, 0, 1, False)


def test_the_pair_is_that_of_scikit_learn():
    mixture = pytest.importorskip("sklearn.mixture")
    x, _ = margins(0.3, apart=2.5)
    x = (x - x.mean()) / x.std()
    pair = fit_pair(x)
    start = np.array([[np.quantile(x, 0.15)], [np.quantile(x, 0.65)]])
    model = mixture.GaussianMixture(2, covariance_type="tied", means_init=start, tol=1e-9, max_iter=2000)
    model.fit(x[:, None])
    low = int(np.argmin(model.means_))
    assert pair.share == pytest.approx(model.weights_[low], abs=0.01)
    assert pair.log_likelihood == pytest.approx(model.score(x[:, None]) * len(x), abs=0.1)
    one = mixture.GaussianMixture(1).fit(x[:, None])
    assert evidence(x, pair) == pytest.approx(one.bic(x[:, None]) - model.bic(x[:, None]), abs=0.2)
    np.testing.assert_allclose(
        Pair(*pair).membership(x), model.predict_proba(x[:, None])[:, low], atol=0.02
    )  # fmt: skip
