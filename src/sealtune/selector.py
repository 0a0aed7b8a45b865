"""omega -> weights: free logits, two ways to turn them into weights, two ways to step them.

Nothing here costs more than O(batch) a step, amortised, except the dense ``adam`` update, which is there because the
paper's authors released it.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from sealtune.processes import Share

Weighting = Literal["softmax", "sigmoid"]


class Selector(Protocol):
    """What the bilevel step needs of a selector."""

    def weights(self, rows: Tensor) -> Tensor:
        """w of these rows, (B,), detached."""

    def descend(self, rows: Tensor, signal: Tensor) -> None:
        """One step of omega against ``signal`` (B,): the gap, or the raw loss."""


class Update(Protocol):
    """How omega moves."""

    def step(self, logits: FreeLogits, rows: Tensor, signal: Tensor) -> None:
        """Move ``logits.omega`` in place."""

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""


class FreeLogits:
    """The paper's selector: one free logit a row. Weights have mean 1 (softmax) or lie in (0, 2) (sigmoid).

    ``omega`` is float64 (N,) and stays on the CPU: a step touches B of its entries. With ``split`` each of several
    processes keeps its share of the rows, and a step exchanges O(B) numbers.
    """

    def __init__(
        self, n: int, update: Update, weighting: Weighting = "softmax", start: float = 0.0, *, split: bool = False
    ) -> None:
        self.share = Share(n, split=split)
        self.omega = torch.full((len(self.share),), start, dtype=torch.float64)
        self.weighting = weighting
        self.update = update
        self._recount()

    def weights(self, rows: Tensor) -> Tensor:
        """w_i of these rows, (B,) float64: N softmax(omega)_i, or 2 sigmoid(omega_i).  Eq. (w)."""
        return self._weigh(self._logits(rows))

    def all_weights(self) -> Tensor:
        """w, (N,)."""
        return self.share.whole(self._weigh(self.omega))

    def scores(self) -> Tensor:
        """omega of all rows, (N,)."""
        return self.share.whole(self.omega)

    def _logits(self, rows: Tensor) -> Tensor:
        mine, places = self.share.of(rows)
        return self.share.sum(self.omega.new_zeros(len(rows)).index_copy(0, mine, self.omega[places]))

    def _weigh(self, logits: Tensor) -> Tensor:
        if self.weighting == "sigmoid":
            return 2 * torch.sigmoid(logits)
        return self.share.n * torch.exp(logits - self._shift) / self._total

    def gradient(self, rows: Tensor, signal: Tensor) -> Tensor:
        """d/d omega of (1/B) sum_B w_i(omega) signal_i, (N,): dense, for softmax moves every row.  Eq. (omega)."""
        weighted = self.weights(rows) * signal.double() / len(rows)
        if self.weighting == "sigmoid":
            slope = weighted * (1 - torch.sigmoid(self.omega[rows]))
            return torch.zeros_like(self.omega).index_add(0, rows, slope)
        spread = -weighted.sum() * self.all_weights() / len(self.omega)
        return spread.index_add(0, rows, weighted)

    def descend(self, rows: Tensor, signal: Tensor) -> None:
        """One step of omega against ``signal`` (B,)."""
        self.update.step(self, rows.cpu(), signal.detach().double().cpu())

    def move(self, rows: Tensor, by: Tensor) -> None:
        """omega[rows] += by, with the softmax's denominator kept up to date in O(B)."""
        mine, places = self.share.of(rows)
        before = torch.exp(self.omega[places] - self._shift).sum()
        self.omega.index_add_(0, places, by[mine])
        self._total += self.share.sum(torch.exp(self.omega[places] - self._shift).sum() - before)
        self._moved += len(rows)
        if self._moved >= self.share.n:  # rounding errors of N moves are swept away: O(1) a row
            self._recount()

    def _recount(self) -> None:
        # Any logit near the largest will do as the shift: the mean of the processes' largest is the same for all.
        self._shift = self.share.sum(self.omega.max() / self.share.every)
        self._total = self.share.sum(torch.exp(self.omega - self._shift).sum())
        self._moved = 0

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs to go on bit for bit."""
        own = {"omega": self.scores(), "shift": self._shift, "total": self._total, "moved": torch.tensor(self._moved)}
        return own | {f"update.{name}": value for name, value in self.update.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
        self.omega = self.share.part(state["omega"])
        self._shift, self._total, self._moved = state["shift"], state["total"].clone(), int(state["moved"])
        self.update.load_state({k.removeprefix("update."): v for k, v in state.items() if k.startswith("update.")})


class Mirror:
    """Entropic mirror descent: omega_i -= rate * signal_i, and only when the row is visited.

    On the simplex (softmax) that multiplies w_i by exp(-rate * signal_i) before normalising. A constant taken from
    every row changes nothing there, so the running mean of the signal is subtracted: without it a row visited early,
    when all losses are high, would fall further than one visited late. In the box (sigmoid; the mirror map is the
    entropy of w / 2) no such constant exists and none is taken. No momentum: nothing moves a row outside the batch.

    Source: Beck and Teboulle (2003), "Mirror descent and nonlinear projected subgradient methods", section 5.
    """

    def __init__(self, rate: float = 0.3, memory: float = 0.9) -> None:
        self.rate = rate
        self.memory = memory
        self.baseline: Tensor | None = None

    def step(self, logits: FreeLogits, rows: Tensor, signal: Tensor) -> None:
        """Move the visited rows."""
        mean = signal.mean()
        if self.baseline is None:
            self.baseline = mean
        shared = self.baseline if logits.weighting == "softmax" else 0.0
        logits.move(rows, -self.rate * (signal - shared))
        self.baseline = self.memory * self.baseline + (1 - self.memory) * mean

    def state(self) -> dict[str, Tensor]:
        """The running mean, where there is one yet."""
        return {} if self.baseline is None else {"baseline": self.baseline}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
        self.baseline = state.get("baseline")


class DenseAdam:
    """Adam on all N logits each step, as the authors released it (betas 0.9, 0.95).

    Adam divides by the running size of the gradient, so the tiny softmax gradient of a row that is *not* in the batch
    moves it by about one learning rate: the score comes to depend on when a row was last visited. For comparison only.

    Source: Kingma and Ba (2015), algorithm 1; betas from the released code of SEAL.
    """

    def __init__(self, rate: float = 5e-3, betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8) -> None:
        self.rate, self.betas, self.eps = rate, betas, eps
        self.steps = 0
        self.mean: Tensor | None = None
        self.square: Tensor | None = None

    def step(self, logits: FreeLogits, rows: Tensor, signal: Tensor) -> None:
        """Move every row."""
        gradient = logits.gradient(rows, signal)
        beta1, beta2 = self.betas
        self.steps += 1
        if self.mean is None or self.square is None:
            self.mean, self.square = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.lerp_(gradient**2, 1 - beta2)
        size = (self.square / (1 - beta2**self.steps)).sqrt() + self.eps
        logits.move(torch.arange(len(gradient)), -self.rate * self.mean / (1 - beta1**self.steps) / size)

    def state(self) -> dict[str, Tensor]:
        """Both moments and the step count, once there are any."""
        if self.mean is None or self.square is None:
            return {}
        return {"mean": self.mean, "square": self.square, "steps": torch.tensor(self.steps)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
        if state:
            self.mean, self.square, self.steps = state["mean"].clone(), state["square"].clone(), int(state["steps"])
