"""The method: one penalty step of SEAL.

    min over omega   (1/M) sum_S l(theta*(omega))                                            (1)  upper level
    s.t. theta*(omega) = argmin_theta (1/N) sum_i w_i(omega) l_i(theta)                      (2)  lower level

Penalty form, gamma in [0, 1):

    (1 - gamma) L_safe(theta) + gamma [ (1/N) sum_i w_i l_i(theta) - v(omega) ]              (3)
    v(omega) = min over theta_hat of (1/N) sum_i w_i l_i(theta_hat)                          (4)

Its derivative by w_i is gamma / N times the gap l_i(theta) - l_i(theta_hat)                 (5)
(envelope theorem: at the minimum of (4), the change of theta_hat itself does not contribute).

Source: Shen, Chen, Das, Chen (ICLR 2025), arXiv 2410.07471, section 3; Shen and Chen (ICML 2023), "On penalty-based
bilevel gradient descent method", for the penalty and its limit gamma -> 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from sealtune.ranking.selector import Selector


class Rows(Protocol):
    """A batch: what a player can be trained on, and the positions of its rows in the data set."""

    @property
    def rows(self) -> Tensor:
        """Positions (B,)."""


B = TypeVar("B", bound=Rows)
B_in = TypeVar("B_in", bound=Rows, contravariant=True)


class Player(Protocol[B_in]):
    """A model that can be trained: an adapter, a full model, or a ridge regression in a test."""

    def learn(self, batch: B_in, weights: Tensor) -> Tensor:
        """Losses l_i, (B,), detached; accumulates the gradient of (1/B) sum_i weights_i l_i.

        If all weights are zero there is no backward pass. A row whose loss is not finite adds nothing to the gradient.
        """

    def descend(self) -> None:
        """One optimiser step on the gradients accumulated since the last one."""


@dataclass(frozen=True, slots=True)
class Step(Generic[B]):
    """The two batches of one step, and their losses (B,) in nats per response token."""

    candidates: B
    safe: B
    gamma: float
    safe_losses: Tensor
    losses: Tensor
    hat_losses: Tensor | None

    @property
    def signal(self) -> Tensor:
        """What omega descends on: the gap (Algorithm 1), or the raw loss (Algorithm 2)."""
        return self.losses if self.hat_losses is None else self.losses - self.hat_losses


def penalty_step(
    theta: Player[B], theta_hat: Player[B] | None, selector: Selector, batch: B, safe: B, gamma: float
) -> Step[B]:
    """One step of Algorithm 1, or of Algorithm 2 if ``theta_hat`` is None.

    ``gamma`` weighs the two objectives of theta. As in the authors' code, it does not scale the step of omega: it would
    only rescale the selector's learning rate, and stop the selector in the first epoch. A row whose signal is not
    finite does not move.
    """
    weights = selector.weights(batch.rows)  # (B,)
    hat_losses = theta_hat.learn(batch, weights) if theta_hat else None  # lower level: l_i(theta_hat)      (4)
    safe_losses = theta.learn(safe, torch.full_like(safe.rows, 1 - gamma, dtype=weights.dtype))  # L_safe   (1)
    losses = theta.learn(batch, gamma * weights)  # l_i(theta)                                              (3)
    step = Step(batch, safe, gamma, safe_losses, losses, hat_losses)
    if theta_hat:
        theta_hat.descend()
    theta.descend()
    finite = step.signal.isfinite()
    if finite.any():
        selector.descend(batch.rows[finite], step.signal[finite])  # upper level, through the penalty       (5)
    return step


def gamma_at(epoch: int, gamma: float, schedule: Literal["linear", "constant"]) -> float:
    """gamma of an epoch (from 0): the paper's 0, gamma, 2 gamma, ... or the same throughout."""
    return gamma * epoch if schedule == "linear" else gamma


MIN_SAFE_STEPS = 64
"""Training steps on the safe set that a small safe set is repeated for: 128 rows, four times, taught theta as much as
512 rows, once."""


def safe_steps(per_epoch: int, epochs: int, candidate_batches: int) -> int:
    """Training steps of theta on the safe set alone: one epoch, or several over a small set.

    Args:
        per_epoch: steps of one epoch over the safe set.
        epochs: the most epochs over a safe set that takes fewer than MIN_SAFE_STEPS steps.
        candidate_batches: steps of one epoch over the candidates; at most twice as many are taken, so that ranking
            stays cheap.
    """
    return max(per_epoch, min(MIN_SAFE_STEPS, per_epoch * epochs, 2 * candidate_batches))
