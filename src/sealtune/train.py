"""The ranking loop: a generator of step records. It knows no files, only players, batches and a selector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sealtune import processes
from sealtune.adapters import Player
from sealtune.bilevel import Step, gamma_at, penalty_step
from sealtune.config import RankConfig
from sealtune.data.batches import Batch, Batches
from sealtune.encoded import Encoded
from sealtune.fitting import require_alike, taking_back
from sealtune.records import RunError, Scores
from sealtune.selector import FreeLogits

if TYPE_CHECKING:
    from sealtune.rankers import OnStep


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What is logged of one step; losses are means over the batch in nats per response token.

    ``candidate_loss`` is None where a step met safe rows alone.
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


class Ranking:
    """All that changes while rows are ranked, so that it can be saved between any two steps."""

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
        self.faults = Faults(candidates, settings.max_not_finite)
        self.safe_faults = Faults(safe, settings.max_not_finite)
        self.share = selector.share
        n = len(self.share)
        self.visits = torch.zeros(n, dtype=torch.int32)
        self.last_loss = torch.full((n,), torch.nan)
        self.last_gap = torch.full((n if "theta_hat" in players else 0,), torch.nan)
        self.doubt = EpochDoubt(selector.omega, self.share)
        self.agreement = torch.tensor(torch.nan, dtype=torch.float64)  # of the rankings of the last two epochs

    @property
    def total_steps(self) -> int:
        """Steps of the whole ranking."""
        return self.candidates.per_epoch * self.settings.num_train_epochs

    def run(self) -> Iterator[StepRecord]:
        """Go on from where it stands to the end, one record a step. Raises RunError on a loss that is not finite."""
        while self.step < self.total_steps and not self.is_stable:
            started = time.perf_counter()
            epoch = self.step // self.candidates.per_epoch
            torch.manual_seed(self.seed + self.step)  # dropout, where there is some, repeats after a resume
            step = self._penalty_step(gamma_at(epoch, self.settings.gamma, self.settings.gamma_schedule))
            self._remember(step)
            self.step += 1
            if self.step % self.candidates.per_epoch == 0:
                self._end_epoch()
            yield _record(step, self.step, epoch, len(self.players), time.perf_counter() - started)

    @property
    def is_stable(self) -> bool:
        """Whether the last epoch changed the ranking so little that another is not worth its cost."""
        wanted = self.settings.stop_when_stable
        return wanted is not None and bool(self.agreement >= wanted)

    def _end_epoch(self) -> None:
        # Before the first epoch all rows are alike.
        if self.settings.stop_when_stable is not None and self.step > self.candidates.per_epoch:
            before, now = self.share.whole(self.doubt.before), self.selector.scores()
            self.agreement = rank_correlation(before, now)
        self.doubt.end_epoch(self.selector.omega)

    def finish(self, on_step: OnStep, resume: dict[str, Tensor] | None = None) -> Scores:
        """Run to the end, from ``resume`` where there is one, telling ``on_step``; the score is omega."""
        if resume:
            with taking_back():
                self.load_state(resume)
        for record in self.run():
            on_step(record, self.total_steps, self.state)
        encoded, n, whole = self.candidates.encoded, self.share.n, self.share.whole
        return Scores(
            ids=encoded.ids,
            source=encoded.source,
            score=self.faults.strike(self.selector.scores()).numpy(),
            weight=self.selector.all_weights().numpy(),
            loss=whole(self.last_loss).double().numpy(),
            gap=whole(self.last_gap).double().numpy() if "theta_hat" in self.players else np.full(n, np.nan),
            visits=whole(self.visits).long().numpy(),
            doubt=np.full(n, self.doubt.deviation()),
        )

    def _penalty_step(self, gamma: float) -> Step[Batch]:
        batch, safe = self.candidates.at(self.step), self.safe.at(self.step)
        return penalty_step(self.players["theta"], self.players.get("theta_hat"), self.selector, batch, safe, gamma)

    def _remember(self, step: Step[Batch]) -> None:
        mine, places = self.share.of(step.candidates.rows)
        self.faults.note(step.candidates, step.signal)
        self.safe_faults.note(step.safe, step.safe_losses)
        self.visits[places] += 1
        self.last_loss[places] = step.losses[mine].float()
        if step.hat_losses is not None:
            self.last_gap[places] = step.signal[mine].float()

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs to go on bit for bit."""
        state = {f"selector.{k}": v for k, v in self.selector.state().items()}
        for name, player in self.players.items():
            state |= {f"{name}.{k}": v for k, v in player.state().items()}
        return state | {
            "step": torch.tensor(self.step),
            "batch_sizes": torch.tensor([self.candidates.size, self.safe.size]),
            "visits": self.share.whole(self.visits),
            "last_loss": self.share.whole(self.last_loss),
            "last_gap": self.share.whole(self.last_gap) if "theta_hat" in self.players else self.last_gap,
            "doubt": self.doubt.moved,
            "omega_before": self.share.whole(self.doubt.before),
            "agreement": self.agreement,
            "faults": self.faults.tensor(),
            "safe_faults": self.safe_faults.tensor(),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave; batches stay as large as they were, with more or fewer processes too."""
        require_alike(state, {k: v for k, v in self.state().items() if not k.endswith("faults")})
        self.step = int(state["step"])
        candidates, safe = state["batch_sizes"].tolist()
        self.candidates = Batches(self.candidates.encoded, candidates, self.seed, stream=0)
        self.safe = Batches(self.safe.encoded, safe, self.seed, stream=1)
        self.visits, self.last_loss, self.last_gap = (
            self.share.part(state[name]) for name in ("visits", "last_loss", "last_gap")
        )
        self.doubt.moved, self.doubt.before = state["doubt"].clone(), self.share.part(state["omega_before"])
        self.agreement = state["agreement"]
        self.faults.take_back(state["faults"])
        self.safe_faults.take_back(state["safe_faults"])
        self.selector.load_state(under("selector.", state))
        for name, player in self.players.items():
            player.load_state(under(f"{name}.", state))


def batch_size(settings: RankConfig) -> int:
    """Candidates of one step, in all processes together."""
    return settings.per_device_train_batch_size * settings.gradient_accumulation_steps * processes.count()


class EpochDoubt:
    """How far omega would move with other epochs: a standard deviation, the same for all rows; NaN for one epoch.

    Omega is the sum of what the epochs add, so its deviation is that of an epoch's part times the root of their number.
    It is pooled over the rows: a few epochs say too little of one row. Only the logits at the end of the last epoch are
    kept, not those of every epoch, so that memory does not grow with the epochs.
    """

    def __init__(self, omega: Tensor, share: processes.Share) -> None:
        self.share = share
        self.before = omega.clone()
        self.moved = torch.zeros(3, dtype=torch.float64)  # epochs; sums over rows of squared parts, of squared totals

    def end_epoch(self, omega: Tensor) -> None:
        """Take note of the logits kept here at the end of an epoch. All rows start alike."""
        part = omega - self.before
        part -= self._mean(part)  # what all rows have in common ranks none
        self.moved[0] += 1
        self.moved[1] += self.share.sum(part.dot(part))
        total = torch.sub(omega, self._mean(omega), out=part)  # in the same memory: there may be many rows
        self.moved[2] = self.share.sum(total.dot(total))
        self.before.copy_(omega)

    def _mean(self, values: Tensor) -> Tensor:
        return self.share.sum(values.sum()) / self.share.n

    def deviation(self) -> float:
        """sqrt(E * mean over rows of the variance of their E parts)."""
        epochs, parts, totals = self.moved.tolist()
        if epochs < 2:
            return float("nan")
        variance = max(parts - totals / epochs, 0.0) / (epochs - 1) / self.share.n
        return float((variance * epochs) ** 0.5)


def rank_correlation(left: Tensor, right: Tensor) -> Tensor:
    """Spearman's rank correlation of two vectors (N,) without ties: a scalar, NaN for a single row."""
    ranks = torch.stack([left.argsort().argsort(), right.argsort().argsort()]).double()
    return torch.corrcoef(ranks)[0, 1]


class Progress:
    """Numbers, times and reports the steps of a ranker that has no bilevel loop.

    ``state`` gives what the ranker needs to be resumed; without it there is nothing to resume from.
    """

    def __init__(self, on_step: OnStep, total: int, state: Callable[[], dict[str, Tensor]] = dict) -> None:
        self.on_step = on_step
        self.total = total
        self.state = state
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
        """One step more is done; ``tokens`` went through the model in it."""
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
        self.on_step(record, self.total, self.state)


class Faults:
    """Rows whose loss was not finite. They are left out where that is seen, and ranked last; too many are an error."""

    def __init__(self, encoded: Encoded, share: float) -> None:
        self.encoded = encoded
        self.limit = int(share * len(encoded))
        self.rows: set[int] = set()

    def note(self, batch: Batch, losses: Tensor) -> None:
        """Look at the losses (B,) of a batch. Raises RunError where more rows are at fault than may be."""
        found = batch.rows[~losses.isfinite()].tolist()
        self.rows.update(found)
        if found and len(self.rows) > self.limit:
            names = ", ".join(self.encoded.ids[i] for i in sorted(self.rows)[:5])
            raise RunError(
                f"ranking stopped: the loss of {len(self.rows)} of {len(self.encoded):,} rows is not finite ({names}); "
                "lower rank.learning_rate, look at these rows, or raise rank.max_not_finite"
            )

    def strike(self, score: Tensor) -> Tensor:
        """The scores (N,) with NaN for the rows at fault: whoever collects the scores ranks them last."""
        return score.index_fill(0, self.tensor(), torch.nan) if self.rows else score

    def tensor(self) -> Tensor:
        """Their positions, int64."""
        return torch.tensor(sorted(self.rows), dtype=torch.int64)

    def take_back(self, rows: Tensor) -> None:
        """Take back what ``tensor`` gave. Raises ValueError where it is no list of rows."""
        if rows.dim() != 1 or not bool(((rows >= 0) & (rows < len(self.encoded))).all()):
            raise ValueError("faults names rows that are not there")
        self.rows = set(rows.tolist())


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What stands under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def finite_mean(losses: Tensor) -> float | None:
    """Mean of the finite ones of (B,); None where there is none."""
    fine = losses[losses.isfinite()]
    return float(fine.mean()) if len(fine) else None


def _record(step: Step[Batch], number: int, epoch: int, players: int, seconds: float) -> StepRecord:
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
        # Tokens that went through the model: the safe rows once, the candidates once a player.
        tokens=step.safe.token_count + step.candidates.token_count * players,
        seconds=seconds,
    )
