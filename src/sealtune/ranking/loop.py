"""The SEAL loop: a generator of step records. It knows no files, only players, batches and a selector."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sealtune.core import distributed
from sealtune.core.config import RankConfig
from sealtune.core.types import Scores
from sealtune.data.batches import Batch, Batches
from sealtune.data.encoded import Encoded
from sealtune.models.adapters import Player
from sealtune.models.state_dict import State, Stateful, check_shapes, gather_states, restore_states, restoring
from sealtune.ranking.bilevel import Step, gamma_at, penalty_step
from sealtune.ranking.job import SCORE_BYTES, Amounts, Cost
from sealtune.ranking.progress import NonFiniteRows, OnStep, StepRecord, effective_share, finite_mean
from sealtune.ranking.selector import FreeLogits


class SealLoop:
    """Everything that changes while rows are ranked, so that it can be saved between any two steps."""

    def __init__(
        self,
        candidates: Encoded,
        safe: Encoded,
        players: dict[str, Player],
        selector: FreeLogits,
        settings: RankConfig,
        seed: int,
    ) -> None:
        size = batch_size(settings)
        self.candidates = Batches(candidates, size, seed, stream=0)
        # The two sets cycle independently: 20 safe rows serve 20,000 candidates.
        self.safe = Batches(safe, min(settings.safe_batch_size or size, len(safe)), seed, stream=1)
        self.players = players
        self.selector = selector
        self.settings = settings
        self.seed = seed
        self.step = 0
        self.last_seen = LastSeen(len(candidates), with_gap="theta_hat" in players)
        self.non_finite = NonFiniteRows(candidates, settings.max_non_finite)
        self.non_finite_safe = NonFiniteRows(safe, settings.max_non_finite)
        self.epochs = EpochVariance(selector.omega)
        self.agreement = torch.tensor(torch.nan, dtype=torch.float64)  # between the rankings of the last two epochs

    @property
    def total_steps(self) -> int:
        """Steps of the complete ranking."""
        return self.candidates.per_epoch * self.settings.num_train_epochs

    def run(self) -> Iterator[StepRecord]:
        """Run from the current step to the end; yields one record per step. Raises RunError on non-finite losses."""
        while self.step < self.total_steps and not self.is_stable:
            started = time.perf_counter()
            epoch = self.step // self.candidates.per_epoch
            torch.manual_seed(self.seed + self.step)  # makes dropout, if there is any, repeat after a resume
            step = self._penalty_step(gamma_at(epoch, self.settings.gamma, self.settings.gamma_schedule))
            self._observe(step)
            self.step += 1
            if self.step % self.candidates.per_epoch == 0:
                self._end_epoch()
            share = effective_share(self.selector.weights(step.candidates.rows))
            yield _record(step, self.step, epoch, len(self.players), time.perf_counter() - started, share)

    @property
    def is_stable(self) -> bool:
        """Whether the last epoch changed the ranking so little that another one is not worth its cost."""
        wanted = self.settings.stop_when_stable
        return wanted is not None and bool(self.agreement >= wanted)

    def _end_epoch(self) -> None:
        # Before the first epoch all logits are equal, so there is no ranking to compare with.
        if self.settings.stop_when_stable is not None and self.step > self.candidates.per_epoch:
            self.agreement = rank_correlation(self.epochs.before, self.selector.omega)
        self.epochs.end_epoch(self.selector.omega)

    def finish(self, on_step: OnStep, resume: State | None = None) -> Scores:
        """Run to the end, from ``resume`` if given, and call ``on_step`` after every step; the score is omega."""
        if resume:
            with restoring():
                self.load_state_dict(resume)
        for record in self.run():
            on_step(record, self.total_steps, self.state_dict)
        encoded, n = self.candidates.encoded, len(self.selector.omega)
        return Scores(
            ids=encoded.ids,
            source=encoded.source,
            score=self.non_finite.mask_scores(self.selector.omega).numpy(),
            weight=self.selector.all_weights().numpy(),
            loss=self.last_seen.loss.double().numpy(),
            gap=self.last_seen.gap.double().numpy() if "theta_hat" in self.players else np.full(n, np.nan),
            visits=self.last_seen.visits.long().numpy(),
            standard_error=np.full(n, self.epochs.standard_error()),
        )

    def _penalty_step(self, gamma: float) -> Step[Batch]:
        batch, safe = self.candidates.at(self.step), self.safe.at(self.step)
        return penalty_step(self.players["theta"], self.players.get("theta_hat"), self.selector, batch, safe, gamma)

    def _observe(self, step: Step[Batch]) -> None:
        self.non_finite.check(step.candidates, step.signal)
        self.non_finite_safe.check(step.safe, step.safe_losses)
        self.last_seen.observe(step)

    @property
    def _parts(self) -> dict[str, Stateful]:
        return {
            "selector": self.selector,
            "last_seen": self.last_seen,
            "epochs": self.epochs,
            "non_finite": self.non_finite,
            "non_finite_safe": self.non_finite_safe,
            **self.players,
        }

    def state_dict(self) -> State:
        """The tensors that a resumed run needs to continue bit for bit."""
        sizes = torch.tensor([self.candidates.size, self.safe.size])
        own = {"step": torch.tensor(self.step), "batch_sizes": sizes, "agreement": self.agreement}
        return own | gather_states(self._parts)

    def load_state_dict(self, state: State) -> None:
        """Restore what ``state_dict`` returned; batches keep their size, with more or fewer processes too."""
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("non_finite")}
        check_shapes(state, own)
        self.step = int(state["step"])
        candidates, safe = state["batch_sizes"].tolist()
        self.candidates = Batches(self.candidates.encoded, candidates, self.seed, stream=0)
        self.safe = Batches(self.safe.encoded, safe, self.seed, stream=1)
        self.agreement = state["agreement"]
        restore_states(self._parts, state)


def batch_size(settings: RankConfig) -> int:
    """Candidates per step, in all processes together."""
    return settings.per_device_train_batch_size * settings.gradient_accumulation_steps * distributed.num_processes()


class LastSeen:
    """How often each row was visited, and its loss and gap at the last visit: N values each, NaN before the first."""

    def __init__(self, n: int, *, with_gap: bool) -> None:
        self.visits = torch.zeros(n, dtype=torch.int32)
        self.loss = torch.full((n,), torch.nan)
        self.gap = torch.full((n if with_gap else 0,), torch.nan)

    def observe(self, step: Step[Batch]) -> None:
        """Note the losses of a step."""
        rows = step.candidates.rows
        self.visits[rows] += 1
        self.loss[rows] = step.losses.float()
        if step.hat_losses is not None:
            self.gap[rows] = step.signal.float()

    def state_dict(self) -> State:
        """The three vectors."""
        return {"visits": self.visits, "loss": self.loss, "gap": self.gap}

    def load_state_dict(self, state: State) -> None:
        """Restore what ``state_dict`` returned."""
        self.visits, self.loss, self.gap = (state[name].clone() for name in ("visits", "loss", "gap"))


class EpochVariance:
    """How far omega would move with other epochs: one standard error for all rows; NaN after a single epoch.

    Omega is the sum of what the epochs add, so its standard error is that of one epoch's part times the root of the
    number of epochs. It is pooled over the rows, because a few epochs say too little about one row. Only the logits at
    the end of the last epoch are kept, so that memory does not grow with the epochs.
    """

    def __init__(self, omega: Tensor) -> None:
        self.before = omega.clone()
        self.sums = torch.zeros(3, dtype=torch.float64)  # epochs; sums over rows of squared parts, of squared totals

    def end_epoch(self, omega: Tensor) -> None:
        """Take the logits at the end of an epoch into account."""
        part = omega - self.before
        part -= part.sum() / len(part)  # what all rows share does not rank them
        self.sums[0] += 1
        self.sums[1] += part.dot(part)
        total = torch.sub(omega, omega.sum() / len(omega), out=part)  # in the same memory: there may be many rows
        self.sums[2] = total.dot(total)
        self.before.copy_(omega)

    def standard_error(self) -> float:
        """sqrt(E * mean over rows of the variance of their E parts)."""
        epochs, parts, totals = self.sums.tolist()
        if epochs < 2:
            return float("nan")
        variance = max(parts - totals / epochs, 0.0) / (epochs - 1) / len(self.before)
        return float((variance * epochs) ** 0.5)

    def state_dict(self) -> State:
        """The sums, and the logits at the end of the last epoch."""
        return {"sums": self.sums, "before": self.before}

    def load_state_dict(self, state: State) -> None:
        """Restore what ``state_dict`` returned."""
        self.sums, self.before = state["sums"].clone(), state["before"].clone()


def rank_correlation(left: Tensor, right: Tensor) -> Tensor:
    """Spearman's rank correlation of two vectors (N,) without ties: a scalar, NaN for a single row."""
    ranks = torch.stack([left.argsort().argsort(), right.argsort().argsort()]).double()
    return torch.corrcoef(ranks)[0, 1]


LOGIT_BYTES = 36
"""Host bytes per candidate: its place in the shuffle (8); its logit, now and at the end of the last epoch, visits, last
loss and last gap (28)."""

ADAM_BYTES = 16
"""Host bytes per candidate of the two moments of dense Adam."""


def seal_cost(settings: RankConfig, amounts: Amounts, players: int, *, dense: bool) -> Cost:
    """The cost of the loop: per epoch it passes over the candidates, with a backward pass unless gamma is 0, over as
    many safe rows as its batches hold, and with two players over the candidates once more.
    """
    batch = batch_size(settings)
    trained = amounts.rows * (min(settings.safe_batch_size or batch, amounts.safe_rows) / batch + players - 1)
    gammas = [gamma_at(epoch, settings.gamma, settings.gamma_schedule) for epoch in range(settings.num_train_epochs)]
    return Cost(
        forward=len(gammas) * (trained + amounts.rows),
        backward=sum(trained + (amounts.rows if gamma else 0) for gamma in gammas),
        players=players,
        host_bytes=SCORE_BYTES + LOGIT_BYTES + (ADAM_BYTES if dense else 0),
        resumable=True,
    )


def _record(step: Step[Batch], number: int, epoch: int, players: int, seconds: float, effective: float) -> StepRecord:
    hat = step.hat_losses
    return StepRecord(
        step=number,
        epoch=epoch,
        gamma=step.gamma,
        safe_loss=finite_mean(step.safe_losses),
        candidate_loss=finite_mean(step.losses),
        hat_loss=None if hat is None else finite_mean(hat),
        gap=None if hat is None else finite_mean(step.signal),
        rows=len(step.candidates.rows),
        # Tokens that went through the model: the safe rows once, the candidates once per player.
        tokens=step.safe.token_count + step.candidates.token_count * players,
        seconds=seconds,
        effective_share=effective,
    )
