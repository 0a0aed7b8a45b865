"""omega -> weights: free logits, two ways to turn them into weights, two ways to update them.

A step costs amortised O(batch), except with the dense ``adam`` update, which is here because the paper's authors
released it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from sealtune.models.state_dict import Stateful, gather_states, restore_states

Weighting = Literal["softmax", "sigmoid"]


class Selector(Protocol):
    """What the bilevel step needs of a selector."""

    def weights(self, rows: Tensor) -> Tensor:
        """w of these rows, (B,), detached."""

    def descend(self, rows: Tensor, signal: Tensor) -> None:
        """One step of omega against ``signal`` (B,): the gap, or the raw loss."""


class Update(Stateful, Protocol):
    """An optimiser of omega."""

    def delta(self, rows: Tensor, signal: Tensor, gradient: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """The rows to move and by how much, both (K,).

        Args:
            rows: the rows of the batch, (B,).
            signal: the gap or the raw loss of each, (B,).
            gradient: computes the dense gradient by omega, (N,), for updates that need it.
        """


class FreeLogits:
    """The paper's selector: one free logit per row. Weights have mean 1 (softmax) or lie in (0, 2) (sigmoid).

    ``omega`` is float64 (N,) and stays on the CPU; a step touches B of its entries.
    """

    def __init__(self, n: int, update: Update, weighting: Weighting = "softmax", start: float = 0.0) -> None:
        self.omega = torch.full((n,), start, dtype=torch.float64)
        self.weighting = weighting
        self.update = update
        self._recompute_normaliser()

    def weights(self, rows: Tensor) -> Tensor:
        """w_i of these rows, (B,) float64: N softmax(omega)_i, or 2 sigmoid(omega_i).  Eq. (w)."""
        return self._weigh(self.omega[rows])

    def all_weights(self) -> Tensor:
        """w, (N,)."""
        return self._weigh(self.omega)

    def _weigh(self, logits: Tensor) -> Tensor:
        if self.weighting == "sigmoid":
            return 2 * torch.sigmoid(logits)
        return len(self.omega) * torch.exp(logits - self._shift) / self._total

    def gradient(self, rows: Tensor, signal: Tensor) -> Tensor:
        """d/d omega of (1/B) sum_B w_i(omega) signal_i, (N,): dense; under softmax it moves every row.  Eq. (omega)."""
        weighted = self.weights(rows) * signal.double() / len(rows)
        if self.weighting == "sigmoid":
            slope = weighted * (1 - torch.sigmoid(self.omega[rows]))
            return torch.zeros_like(self.omega).index_add(0, rows, slope)
        shared = -weighted.sum() * self.all_weights() / len(self.omega)
        return shared.index_add(0, rows, weighted)

    def descend(self, rows: Tensor, signal: Tensor) -> None:
        """One step of omega against ``signal`` (B,)."""
        rows, signal = rows.cpu(), signal.detach().double().cpu()
        self._move(*self.update.delta(rows, signal, partial(self.gradient, rows, signal)))

    def _move(self, rows: Tensor, delta: Tensor) -> None:
        """omega[rows] += delta; the denominator of the softmax is updated in O(B)."""
        before = torch.exp(self.omega[rows] - self._shift).sum()
        self.omega.index_add_(0, rows, delta)
        self._total += torch.exp(self.omega[rows] - self._shift).sum() - before
        self._moved += len(rows)
        if self._moved >= len(self.omega):  # clears the rounding errors of N moves: O(1) per row
            self._recompute_normaliser()

    def _recompute_normaliser(self) -> None:
        self._shift = self.omega.max()
        self._total = torch.exp(self.omega - self._shift).sum()
        self._moved = 0

    def state_dict(self) -> dict[str, Tensor]:
        """omega, its normaliser, and the state of the update."""
        own = {"omega": self.omega, "shift": self._shift, "total": self._total, "moved": torch.tensor(self._moved)}
        return own | gather_states({"update": self.update})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self.omega = state["omega"].clone()
        self._shift, self._total, self._moved = state["shift"], state["total"].clone(), int(state["moved"])
        restore_states({"update": self.update}, state)


class Mirror:
    """Entropic mirror descent: omega_i -= rate * signal_i, only when the row is visited.

    On the simplex (softmax) that multiplies w_i by exp(-rate * signal_i) before normalising. A constant subtracted from
    every row changes nothing there, so with ``centred`` the running mean of the signal is subtracted: without it, a row
    visited early, when all losses are high, would fall further than one visited late. In the box (sigmoid; the mirror
    map is the entropy of w / 2) no such constant exists. There is no momentum: nothing moves a row outside the batch.

    Source: Beck and Teboulle (2003), "Mirror descent and nonlinear projected subgradient methods", section 5.
    """

    def __init__(self, rate: float = 0.3, memory: float = 0.9, *, centred: bool = True) -> None:
        self.rate = rate
        self.memory = memory
        self.centred = centred
        self.baseline: Tensor | None = None

    def delta(self, rows: Tensor, signal: Tensor, gradient: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """The rows of the batch, and how far each moves."""
        mean = signal.mean()
        if self.baseline is None:
            self.baseline = mean
        delta = -self.rate * (signal - (self.baseline if self.centred else 0.0))
        self.baseline = self.memory * self.baseline + (1 - self.memory) * mean
        return rows, delta

    def state_dict(self) -> dict[str, Tensor]:
        """The running mean of the signal, once there is one."""
        return {} if self.baseline is None else {"baseline": self.baseline}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self.baseline = state.get("baseline")


class DenseAdam:
    """Adam on all N logits in every step, as the authors released it (betas 0.9, 0.95).

    Adam divides by the running magnitude of the gradient, so the tiny softmax gradient of a row that is *not* in the
    batch moves it by about one learning rate, and the score comes to depend on when a row was last visited. For
    comparison only.

    Source: Kingma and Ba (2015), algorithm 1; betas from the released code of SEAL.
    """

    def __init__(self, rate: float = 5e-3, betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8) -> None:
        self.rate, self.betas, self.eps = rate, betas, eps
        self.steps = 0
        self.mean: Tensor | None = None
        self.square: Tensor | None = None

    def delta(self, rows: Tensor, signal: Tensor, gradient: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """All rows, and how far each moves."""
        dense = gradient()
        beta1, beta2 = self.betas
        self.steps += 1
        if self.mean is None or self.square is None:
            self.mean, self.square = torch.zeros_like(dense), torch.zeros_like(dense)
        self.mean.lerp_(dense, 1 - beta1)
        self.square.lerp_(dense**2, 1 - beta2)
        magnitude = (self.square / (1 - beta2**self.steps)).sqrt() + self.eps
        return torch.arange(len(dense)), -self.rate * self.mean / (1 - beta1**self.steps) / magnitude

    def state_dict(self) -> dict[str, Tensor]:
        """Both moments and the step count, once there are any."""
        if self.mean is None or self.square is None:
            return {}
        return {"mean": self.mean, "square": self.square, "steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        if state:
            self.mean, self.square, self.steps = state["mean"].clone(), state["square"].clone(), int(state["steps"])
