import numpy as np
import pytest
import torch

from sealtune.ranking.selector import DenseAdam, FreeLogits, Mirror


def logits(n=7, update=None, weighting="softmax", seed=0):
    selector = FreeLogits(n, update or Mirror(0.5), weighting)
    torch.manual_seed(seed)
    selector._move(torch.arange(n), torch.randn(n, dtype=torch.float64))
    return selector


@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
def test_gradient_equals_autograd(weighting):
    selector = logits(weighting=weighting)
    rows, signal = torch.tensor([1, 4, 6]), torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64)
    omega = selector.omega.clone().requires_grad_()
    weights = len(omega) * torch.softmax(omega, 0) if weighting == "softmax" else 2 * torch.sigmoid(omega)
    torch.testing.assert_close(selector.all_weights(), weights.detach())
    (expected,) = torch.autograd.grad((weights[rows] * signal).mean(), omega)
    torch.testing.assert_close(selector.gradient(rows, signal), expected)


def test_mirror_step_is_exponentiated_gradient_on_the_simplex():
    selector = logits(update=Mirror(0.5))
    before, signal = selector.all_weights(), torch.randn(7, dtype=torch.float64)
    selector.descend(torch.arange(7), signal)
    expected = before * torch.exp(-0.5 * signal)
    torch.testing.assert_close(selector.all_weights(), 7 * expected / expected.sum())


def test_mirror_moves_only_visited_rows():
    selector = logits()
    before = selector.omega.clone()
    for step in range(20):
        selector.descend(torch.tensor([2, 5]), torch.tensor([1.0 + step, -1.0]))
    moved = (selector.omega != before).nonzero()[:, 0].tolist()
    assert moved == [2, 5]
    assert selector.omega[2] < before[2]
    assert selector.omega[5] > before[5]


def test_the_running_normaliser_stays_exact():
    selector = logits(n=50)
    random = np.random.default_rng(0)
    for _ in range(333):
        rows = torch.from_numpy(random.choice(50, 4, replace=False))
        selector.descend(rows, torch.from_numpy(random.normal(size=4)))
    torch.testing.assert_close(selector.all_weights(), 50 * torch.softmax(selector.omega, 0), rtol=1e-9, atol=0)
    assert selector.all_weights().mean() == pytest.approx(1)


def test_dense_adam_equals_a_reference_and_shows_its_recency_bias():
    """One step after another of torch's Adam on the same dense gradient; a row never visited drifts up."""
    selector = FreeLogits(6, DenseAdam(0.1))
    omega = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    reference = torch.optim.Adam([omega], lr=0.1, betas=(0.9, 0.95))
    for rows in ([0, 1], [2, 3], [0, 3]):
        rows, signal = torch.tensor(rows), torch.tensor([2.0, 1.0], dtype=torch.float64)
        reference.zero_grad()
        ((6 * torch.softmax(omega, 0))[rows] * signal).mean().backward()
        reference.step()
        selector.descend(rows, signal)
        torch.testing.assert_close(selector.omega, omega.detach(), rtol=1e-6, atol=1e-7)
    assert selector.omega[5] > 0.25


def drift(update):
    """Rank correlation of a row's score with the time of its last visit, when every row has the same loss."""
    n, selector = 2000, FreeLogits(2000, update)
    random = np.random.default_rng(1)
    last = np.empty(n)
    for epoch in range(2):
        order = random.permutation(n)
        for step in range(0, n, 8):
            rows = order[step : step + 8]
            falling = 3 - 1.5 * (epoch * n + step) / (2 * n)  # all losses fall while the model is trained
            selector.descend(torch.from_numpy(rows), torch.from_numpy(falling + 0.3 * random.normal(size=8)))
            last[rows] = epoch * n + step
    rank = np.argsort(np.argsort(selector.omega.numpy()))
    return np.corrcoef(rank, np.argsort(np.argsort(last)))[0, 1]


def test_mirror_has_no_recency_bias_where_adam_has():
    assert abs(drift(Mirror())) < 0.05
    assert drift(DenseAdam()) > 0.5


@pytest.mark.parametrize("update", [Mirror, DenseAdam])
def test_a_restored_selector_continues_bit_for_bit(update):
    def steps(selector, start, stop):
        for step in range(start, stop):
            random = np.random.default_rng(step)
            rows = torch.from_numpy(random.choice(9, 3, replace=False))
            selector.descend(rows, torch.from_numpy(random.normal(size=3)))

    whole, first, second = (FreeLogits(9, update()) for _ in range(3))
    steps(whole, 0, 12)
    steps(first, 0, 5)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    steps(second, 5, 12)
    assert torch.equal(whole.omega, second.omega)
    assert torch.equal(whole.all_weights(), second.all_weights())


def test_mirror_on_the_sigmoid_is_its_own_mirror_step_without_centring():
    """The mirror map w -> log(w / (2 - w)) of the entropy on (0, 2) is omega itself: it falls by rate * signal."""
    selector = logits(update=Mirror(0.5, centred=False), weighting="sigmoid")
    before, rows, signal = selector.all_weights(), torch.tensor([0, 3]), torch.tensor([2.0, 1.0])
    selector.descend(rows, signal)
    after = selector.all_weights()
    moved = torch.log(after / (2 - after)) - torch.log(before / (2 - before))
    torch.testing.assert_close(moved[rows], -0.5 * signal.double())
    assert (after[rows] < before[rows]).all()
