"""Proof of the mathematics on weighted ridge regression, whose lower level has a closed form."""

import numpy as np
import pytest
import torch

from sealtune.ranking.bilevel import MIN_SAFE_STEPS, gamma_at, penalty_step, safe_steps
from sealtune.ranking.selector import FreeLogits, Mirror

N, M, D, RIDGE = 12, 9, 4, 0.1


class Ridge:
    """l_i(theta) = (x_i theta - y_i)^2 / 2 over N candidates, with a ridge term that belongs to the lower level."""

    def __init__(self):
        torch.manual_seed(3)
        real = {"dtype": torch.float64}
        self.x, self.y = torch.randn(N, D, **real), torch.randn(N, **real)
        self.safe_x, self.safe_y = torch.randn(M, D, **real), torch.randn(M, **real)
        self.selector = FreeLogits(N, Mirror())
        self.selector._move(torch.arange(N), 0.5 * torch.randn(N, **real))

    def losses(self, theta):
        return (self.x @ theta - self.y) ** 2 / 2

    def solve(self, weights, safe_share):
        """argmin of safe_share L_safe + (1 - safe_share) [(1/N) sum w_i l_i + ridge/2 |theta|^2]."""
        candidate = (1 - safe_share) / N * self.x.T * weights
        safe = safe_share / M * self.safe_x.T
        matrix = candidate @ self.x + safe @ self.safe_x + (1 - safe_share) * RIDGE * torch.eye(D, dtype=torch.float64)
        return torch.linalg.solve(matrix, candidate @ self.y + safe @ self.safe_y)

    def true_hypergradient(self):
        omega = self.selector.omega.clone().requires_grad_()
        theta = self.solve(N * torch.softmax(omega, 0), safe_share=0.0)
        upper = ((self.safe_x @ theta - self.safe_y) ** 2 / 2).mean()
        return torch.autograd.grad(upper, omega)[0]

    def penalised_gradient(self, ratio, with_hat=True):
        """Our gradient of omega, of (3) divided by 1 - gamma, at gamma / (1 - gamma) = ratio."""
        weights = self.selector.all_weights()
        signal = self.losses(self.solve(weights, safe_share=1 / (1 + ratio)))
        if with_hat:
            signal = signal - self.losses(self.solve(weights, safe_share=0.0))
        return ratio * self.selector.gradient(torch.arange(N), signal)

    def error(self, ratio, **options):
        truth = self.true_hypergradient()
        return float((self.penalised_gradient(ratio, **options) - truth).norm() / truth.norm())


def test_with_theta_hat_the_gradient_converges_to_the_true_hypergradient():
    errors = [Ridge().error(ratio) for ratio in (10, 100, 1000)]
    assert errors[1] < 0.05
    assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.3)
    assert errors[2] / errors[1] == pytest.approx(0.1, rel=0.3)


def test_without_theta_hat_it_does_not():
    errors = [Ridge().error(ratio, with_hat=False) for ratio in (10, 100, 1000)]
    assert min(errors) > 1
    assert errors[2] > errors[0]


class Linear:
    """A player for penalty_step: the ridge problem learned by gradient steps."""

    def __init__(self, problem, rate=0.1):
        self.problem, self.rate, self.backward_passes = problem, rate, 0
        self.theta = torch.zeros(D, dtype=torch.float64, requires_grad=True)

    def learn(self, batch, weights):
        x, y = (self.problem.safe_x, self.problem.safe_y) if batch.safe else (self.problem.x, self.problem.y)
        losses = (x[batch.rows] @ self.theta - y[batch.rows]) ** 2 / 2
        if weights.any():
            (weights * losses).mean().backward()
            self.backward_passes += 1
        return losses.detach()

    def descend(self):
        with torch.no_grad():
            if self.theta.grad is not None:
                self.theta -= self.rate * (self.theta.grad + RIDGE * self.theta)
        self.theta.grad = None


class Some:
    def __init__(self, rows, safe=False):
        self.rows, self.safe = torch.as_tensor(rows), safe


def test_repeated_steps_solve_both_levels():
    """Full-batch steps at a fixed omega end where the closed form puts them: (3) for theta, (4) for theta_hat."""
    problem = Ridge()
    problem.selector.update.rate = 0.0
    theta, theta_hat = Linear(problem), Linear(problem)
    for _ in range(3000):
        step = penalty_step(theta, theta_hat, problem.selector, Some(range(N)), Some(range(M), True), gamma=0.4)
    weights = problem.selector.all_weights()
    torch.testing.assert_close(theta_hat.theta.detach(), problem.solve(weights, 0.0), rtol=1e-6, atol=1e-8)
    # Linear adds the whole ridge term to theta, the penalty only gamma of it: compare at the same objective.
    candidate = 0.4 / N * problem.x.T * weights
    safe = 0.6 / M * problem.safe_x.T
    matrix = candidate @ problem.x + safe @ problem.safe_x + RIDGE * torch.eye(D, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, candidate @ problem.y + safe @ problem.safe_y)
    torch.testing.assert_close(theta.theta.detach(), expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(step.signal, problem.losses(expected) - problem.losses(theta_hat.theta.detach()))


def test_bilevel_selection_lowers_the_upper_loss():
    """Half the candidates lie: after ranking, the weighted fit is better on the safe set than the unweighted one."""
    problem = Ridge()
    truth = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    problem.safe_y = problem.safe_x @ truth
    problem.y = problem.x @ truth
    problem.y[: N // 2] *= -1
    problem.selector = FreeLogits(N, Mirror(0.1))
    theta, theta_hat = Linear(problem), Linear(problem)
    random = np.random.default_rng(0)
    for _ in range(600):
        rows = random.choice(N, 4, replace=False)
        penalty_step(theta, theta_hat, problem.selector, Some(rows), Some(range(M), True), gamma=0.5)
    weights = problem.selector.all_weights()
    assert weights[: N // 2].mean() < 0.15 * weights[N // 2 :].mean()

    def upper(w):
        return ((problem.safe_x @ problem.solve(w, 0.0) - problem.safe_y) ** 2).mean()

    assert upper(weights) < 0.2 * upper(torch.ones_like(weights))


def test_at_gamma_zero_there_is_no_backward_pass_over_the_candidates():
    problem = Ridge()
    theta = Linear(problem)
    penalty_step(theta, None, problem.selector, Some([0, 1]), Some([2], True), gamma=0.0)
    assert theta.backward_passes == 1
    penalty_step(theta, None, problem.selector, Some([0, 1]), Some([2], True), gamma=0.1)
    assert theta.backward_passes == 3


def test_a_row_whose_loss_is_not_finite_does_not_move():
    problem = Ridge()
    problem.y[1] = torch.nan
    before = problem.selector.omega.clone()
    penalty_step(Linear(problem), None, problem.selector, Some([0, 1, 2]), Some([2], True), gamma=0.1)
    after = problem.selector.omega
    assert after[1] == before[1]
    assert after.isfinite().all() and after[0] != before[0] and after[2] != before[2]
    penalty_step(Linear(problem), None, problem.selector, Some([1]), Some([2], True), gamma=0.1)
    assert torch.equal(problem.selector.omega, after)


def test_gamma_schedules():
    assert [gamma_at(e, 0.03, "linear") for e in range(3)] == [0, 0.03, 0.06]
    assert [gamma_at(e, 0.2, "constant") for e in range(2)] == [0.2, 0.2]


def test_a_small_safe_set_is_repeated_and_a_large_one_is_not():
    assert [safe_steps(steps, 3, 999) for steps in (1, 8, 21, 30, MIN_SAFE_STEPS, 500)] == [
        3,
        24,
        63,
        MIN_SAFE_STEPS,
        MIN_SAFE_STEPS,
        500,
    ]
    assert [safe_steps(steps, 1, 999) for steps in (1, 30, 500)] == [1, 30, 500]
    assert [safe_steps(8, 3, batches) for batches in (1, 10, 12, 13)] == [8, 20, 24, 24]
