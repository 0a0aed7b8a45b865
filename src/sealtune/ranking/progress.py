"""What a ranker reports while it works, and the rows whose loss is not finite."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sealtune.core.errors import RunError
from sealtune.data.batches import Batch
from sealtune.data.encoded import Encoded
from sealtune.models.state_dict import State


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The log of one step; losses are means over the batch in nats per response token.

    ``candidate_loss`` is None for a step on safe rows alone. ``effective_share`` is that of the batch, in (0, 1]: the
    number of rows of equal weight that would be as many, (sum w)^2 / sum w^2, over its rows; None without weights.
    Source: Kish, Survey Sampling (1965), section 8.2.
    """

    step: int
    epoch: int
    gamma: float
    safe_loss: float | None
    candidate_loss: float | None
    hat_loss: float | None
    gap: float | None
    rows: int
    tokens: int
    seconds: float
    effective_share: float | None = None


OnStep = Callable[[StepRecord, int, Callable[[], State]], None]
"""Called after every step with its record, the total number of steps, and a function that returns the state to save."""


class Progress:
    """Numbers, times and reports the steps of a ranker that has no bilevel loop.

    ``state_dict`` returns what the ranker needs to resume; without it no checkpoints are saved.
    """

    def __init__(self, on_step: OnStep, total: int, state_dict: Callable[[], State] = dict) -> None:
        self.on_step = on_step
        self.total = total
        self.state_dict = state_dict
        self.step = 0
        self._started = time.perf_counter()

    def report(
        self,
        rows: int,
        tokens: int,
        *,
        safe_loss: float | None = None,
        candidate_loss: float | None = None,
        gap: float | None = None,
    ) -> None:
        """One more step is done, in which ``tokens`` went through the model."""
        now = time.perf_counter()
        self.step += 1
        record = StepRecord(
            step=self.step,
            epoch=0,
            gamma=0.0,
            safe_loss=safe_loss,
            candidate_loss=candidate_loss,
            hat_loss=None,
            gap=gap,
            rows=rows,
            tokens=tokens,
            seconds=now - self._started,
        )
        self._started = now
        self.on_step(record, self.total, self.state_dict)


class NonFiniteRows:
    """Rows whose loss was NaN or infinite. They are skipped where that happens and ranked last; too many are an error.

    ``max_share`` is the share of all rows that may be non-finite, in [0, 1].
    """

    def __init__(self, encoded: Encoded, max_share: float) -> None:
        self.encoded = encoded
        self.limit = int(max_share * len(encoded))
        self.rows: set[int] = set()

    def check(self, batch: Batch, losses: Tensor) -> None:
        """Note the non-finite losses (B,) of a batch. Raises RunError if there are more than the limit."""
        found = batch.rows[~losses.isfinite()].tolist()
        self.rows.update(found)
        if found and len(self.rows) > self.limit:
            names = ", ".join(self.encoded.ids[i] for i in sorted(self.rows)[:5])
            raise RunError(
                f"ranking stopped: the loss of {len(self.rows)} of {len(self.encoded):,} rows is not finite ({names}); "
                "lower rank.learning_rate, look at these rows, or raise rank.max_non_finite"
            )

    def mask_scores(self, score: Tensor) -> Tensor:
        """The scores (N,) with NaN for the non-finite rows, which ``methods.rank`` then ranks last."""
        return score.index_fill(0, self._positions(), torch.nan) if self.rows else score

    def _positions(self) -> Tensor:
        return torch.tensor(sorted(self.rows), dtype=torch.int64)

    def state_dict(self) -> State:
        """The positions of the rows, int64."""
        return {"rows": self._positions()}

    def load_state_dict(self, state: State) -> None:
        """Restore what ``state_dict`` returned. Raises ValueError if it is not a list of rows."""
        rows = state["rows"]
        if rows.dim() != 1 or not bool(((rows >= 0) & (rows < len(self.encoded))).all()):
            raise ValueError("the non-finite rows are not rows of this data")
        self.rows = set(rows.tolist())


def effective_share(weights: Tensor) -> float:
    """The effective sample size of weights (B,), over B; see ``StepRecord``."""
    weights = weights.double()
    return float(weights.sum().square() / (len(weights) * weights.square().sum()).clamp(min=1e-300))


def finite_mean(losses: Tensor) -> float | None:
    """Mean of the finite losses of (B,); None if there are none."""
    finite = losses[losses.isfinite()]
    return float(finite.mean()) if len(finite) else None
