import numpy as np
import pytest
import torch

from sealtune.evaluation.metrics import auroc
from sealtune.scorer import logistic_regression, standardise, teach


def made(n=300, unsafe=60, noise=1.0, seed=0):
    """Rows whose truth stands in one direction of their features, and a signal that knows it with much noise."""
    random = np.random.default_rng(seed)
    truth = np.arange(n) < unsafe
    features = random.normal(size=(n, 12))
    features[truth, 0] -= 2.5
    signal = random.normal(size=n) * noise - truth
    safe = random.normal(size=(80, 12))
    return truth.astype(int), *(torch.from_numpy(x) for x in (signal, features, safe))


def test_rows_that_look_alike_vouch_for_each_other():
    gains = []
    for seed in range(4):
        truth, signal, features, safe = made(seed=seed)
        scores = teach(signal, features, safe, seed=0)
        gains.append(auroc(scores.numpy(), truth) - auroc(signal.numpy(), truth))
    assert min(gains) > 0.05
    assert np.mean(gains) > 0.1


def test_a_row_is_not_judged_by_its_own_signal():
    """Features without any truth: cross-fitted scores know nothing of the signal that taught them."""
    random = np.random.default_rng(1)
    signal = torch.from_numpy(random.normal(size=400))
    features, safe = (torch.from_numpy(random.normal(size=(n, 60))) for n in (400, 100))
    scores = teach(signal, features, safe, seed=0)
    assert abs(np.corrcoef(signal, scores)[0, 1]) < 0.15


def test_the_regression_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    _, _, features, safe = made()
    good, bad = safe, features[:40]
    weight, bias = logistic_regression(good, bad, strength=0.3)
    model = linear_model.LogisticRegression(C=0.3, class_weight="balanced", tol=1e-8, max_iter=1000)
    model.fit(torch.cat([good, bad]).numpy(), [1] * len(good) + [0] * len(bad))
    np.testing.assert_allclose(weight.numpy(), model.coef_[0], rtol=1e-3, atol=1e-4)
    assert float(bias) == pytest.approx(model.intercept_[0], rel=1e-3, abs=1e-4)


def test_features_without_spread_do_no_harm():
    features, safe = standardise(torch.ones(5, 3).double(), torch.ones(2, 3).double())
    assert torch.isfinite(features).all()
    assert torch.isfinite(safe).all()


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="at least two rows"):
        teach(torch.zeros(1), torch.zeros(1, 3), torch.zeros(2, 3), seed=0)
