import numpy as np
import torch

from sealtune.ranking import linear_models
from sealtune.ranking.linear_models import logistic_regression, moments, ridge, subsample


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_ridge_solves_the_normal_equations_of_the_standardised_features():
    x = random(80, 12) * 3 + 1
    y = x[:, :2] * 3 + 1 + random(80, 2, seed=1)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    gram = z.T @ z
    weight = torch.linalg.solve(gram + 0.5 * gram.trace() / 80 * torch.eye(12), z.T @ (y - y.mean(0)))
    torch.testing.assert_close(ridge(x, y, penalty=0.5)(x), z @ weight + y.mean(0))


def test_the_logistic_regression_is_stationary_with_balanced_classes():
    """The gradient of |w|^2 / 2 + strength * sum_i c_i log(1 + exp(-y_i logit_i)) is 0; c_i balances the classes."""
    good, bad = random(90, 5), random(30, 5, seed=1) - 0.5
    model = logistic_regression(good, bad, strength=0.3)
    x, y = torch.cat([good, bad]), torch.cat([torch.ones(90), -torch.ones(30)]).double()
    balance = torch.where(y > 0, 120 / (2 * 90), 120 / (2 * 30))
    slope = balance * y * torch.sigmoid(-y * model(x))
    torch.testing.assert_close(model.weight, 0.3 * (x.T @ slope), atol=1e-4, rtol=1e-3)
    assert abs(float(slope.sum())) < 1e-3
    assert float(model(good).mean()) > float(model(bad).mean())


def test_moments_do_not_depend_on_the_chunks(monkeypatch):
    whole = moments(random(70, 3), random(20, 3, seed=1))
    monkeypatch.setattr(linear_models, "CHUNK", 16)
    for expected, found in zip(whole, moments(random(70, 3), random(20, 3, seed=1)), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_subsample_is_even_and_keeps_both_ends():
    rows = torch.arange(100)
    assert subsample(rows, 4).tolist() == [0, 33, 66, 99]
    assert torch.equal(subsample(rows, 100), rows)
