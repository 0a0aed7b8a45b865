"""A shared scorer: theta learns the safe set, and what it makes of each row is judged by one scorer for all rows.

It is SEAL with gamma = 0 and omega_i = f(row i) in place of free logits (``scorer``). It costs one forward pass over
both sets and an epoch over the safe set, of a small one some more (``bilevel.safe_steps``): theta must know refusals
before it can tell them from harm. It also scores rows that were not ranked (``score``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sealtune import processes, scorer
from sealtune.adapters import Player
from sealtune.bilevel import safe_steps
from sealtune.data.batches import Batch, Batches, longest_first
from sealtune.encoded import Encoded
from sealtune.fitting import RANKER, taking_back
from sealtune.players import learn_safe_set, make_players, safe_batches
from sealtune.rankers import Job, State
from sealtune.records import Scores
from sealtune.regression import MOST, thin
from sealtune.scorer import Looks, Scorer
from sealtune.scratch import is_mapped, room
from sealtune.train import Faults, Progress, finite_mean, under

ESTIMATES = True
"""Its margins tell how many rows are unsafe."""


def rank(job: Job) -> Scores:
    """The scorer's sum of four judgements. Raises RunError where too many losses are not finite."""
    study = Study(job)
    candidates, safe = study.run()
    if len(job.candidates) == 1:  # nothing to compare with
        return _scores(job.candidates, candidates, torch.zeros(1))
    fine = candidates.losses.isfinite()
    judged, safe = _finite(candidates), _finite(safe)
    learned = scorer.learn(judged, safe, job.config.seed)
    margin, safe_margin = scorer.margins(judged, safe, job.config.seed)
    kept = learned.scorer.tensors() | study.learned() | {"safe_margin": safe_margin}
    return _scores(
        job.candidates,
        candidates,
        _among(fine, learned.score),
        doubt=_among(fine, scorer.doubts(judged, safe, job.config.seed)).numpy(),
        margin=_among(fine, margin).numpy(),
        selector={name: tensor.numpy() for name, tensor in kept.items()},
    )


def score(job: Job, saved: Mapping[str, Tensor]) -> Scores:
    """Scores of rows never seen, on the scale of those ranked, by what ``rank`` gave as ``selector``.

    Raises:
        UserError: another version saved it.
    """
    with taking_back(RANKER):
        judge = Scorer.from_tensors(saved)
    theta = make_players(job, ["theta"])["theta"]
    with taking_back(RANKER):
        theta.load_state(under("theta.", saved))
    view = View(job.candidates, job.config.rank.max_not_finite)
    progress = Progress(job.on_step, view.steps(theta))
    view.look(theta, progress)
    return _scores(job.candidates, view.looks, judge(view.looks))


class Study:
    """Theta, what it learned of the safe set, and what it saw of both sets: all that a resumed ranking needs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.batches = safe_batches(job)
        self.theta = make_players(job, ["theta"])["theta"]
        known = thin(torch.arange(len(job.safe)), 2 * MOST)  # the scorer learns from no more, its doubts from halves
        self.views = {
            name: View(rows, job.config.rank.max_not_finite)
            for name, rows in (("candidates", job.candidates), ("safe", job.safe.take(known.numpy())))
        }
        self.faults = Faults(job.safe, job.config.rank.max_not_finite)
        self.progress = Progress(job.on_step, 0, self.state)
        if job.resume:
            with taking_back():
                self.load_state(job.resume)
        looks = sum(view.steps(self.theta) for view in self.views.values())
        self.progress.total = max(self.progress.step, self.steps) + looks

    @property
    def steps(self) -> int:
        """Of theta, over the safe set."""
        of_candidates = -(-len(self.job.candidates) // self.batches.size)
        return safe_steps(self.batches.per_epoch, self.job.config.rank.num_train_epochs, of_candidates)

    def run(self) -> tuple[Looks, Looks]:
        """What theta makes of the candidates and of the safe set."""
        steps = range(self.progress.step, self.steps)
        learn_safe_set(self.theta, self.batches, self.job, self.progress, steps, self.faults)
        for view in self.views.values():
            view.look(self.theta, self.progress)
        return self.views["candidates"].looks, self.views["safe"].looks

    def learned(self) -> State:
        """Theta's weights, without what only its training needs."""
        return {f"theta.{k}": v for k, v in self.theta.state().items() if k.startswith("parameter.")}

    def state(self) -> State:
        """Tensors that a resumed ranking needs."""
        state = {f"theta.{k}": v for k, v in self.theta.state().items()}
        state |= {"step": torch.tensor(self.progress.step), "batch_size": torch.tensor(self.batches.size)}
        state["faults"] = self.faults.tensor()
        for name, view in self.views.items():
            state |= {f"{name}.{k}": v for k, v in view.state().items()}
        return state

    def load_state(self, state: State) -> None:
        """Take back what ``state`` gave; batches stay as large as they were, with more or fewer processes too."""
        self.progress.step = int(state["step"])
        self.batches = Batches(self.batches.encoded, int(state["batch_size"]), self.job.config.seed, stream=1)
        self.theta.load_state(under("theta.", state))
        self.faults.take_back(state["faults"])
        for name, view in self.views.items():
            view.load_state(under(f"{name}.", state))


class View:
    """What a player sees of some rows, batch by batch, the longest rows first."""

    def __init__(self, rows: Encoded, limit: float) -> None:
        self.rows = rows
        self.faults = Faults(rows, limit)
        self.done = 0
        self.looks = Looks(torch.empty(len(rows), dtype=torch.float64), torch.empty(0))

    def steps(self, player: Player) -> int:
        """Batches that are left."""
        return -(-(len(self.rows) - self.done) // _batch_size(player))

    def look(self, player: Player, progress: Progress) -> None:
        """Look at the rows that are left. Raises RunError where too many losses are not finite."""
        player.activate()
        for batch in longest_first(self.rows, _batch_size(player), self.done):
            seen = _look(player, batch)
            if not len(self.looks.states):
                self.looks = Looks(self.looks.losses, room(len(self.rows), *seen.states.shape[1:]))
            for part, values in zip(self.looks, seen, strict=True):
                part[batch.rows] = values
            self.faults.note(batch, self.looks.losses[batch.rows])
            self.done += len(batch.rows)
            progress.report(len(batch.rows), batch.token_count, candidate_loss=finite_mean(seen.losses))

    def state(self) -> State:
        """Tensors that a resumed look needs; none of many rows, which are looked at again: each checkpoint would take
        as long to write.
        """
        seen = View(self.rows, 0) if is_mapped(self.looks.states) else self
        return {"done": torch.tensor(seen.done), "faults": seen.faults.tensor(), **seen.looks._asdict()}

    def load_state(self, state: State) -> None:
        """Take back what ``state`` gave."""
        self.done = int(state["done"])
        self.faults.take_back(state["faults"])
        self.looks = Looks(*(state[name].clone() for name in Looks._fields))
        sizes = {len(part) for part in self.looks if self.done or part is self.looks.losses}
        if sizes != {len(self.rows)} or not 0 <= self.done <= len(self.rows):
            raise ValueError(f"it holds {sorted(sizes)} rows, not {len(self.rows)}")


def _batch_size(player: Player) -> int:
    return player.micro_batch * processes.count()


def _look(player: Player, batch: Batch) -> Looks:
    """What the processes see of a batch, each of its share."""
    ((piece, counts),) = processes.shares(list(batch.split(player.share_of(len(batch.rows)))))
    seen = []
    for part in player.model.look(piece):
        whole = part.new_zeros(len(batch.rows), *part.shape[1:])
        whole[piece.places] = part * counts
        seen.append(processes.total(whole))
    losses, *states = seen
    return Looks(losses, torch.stack(states, 1))


def _finite(looks: Looks) -> Looks:
    """The rows whose loss is finite; no copy where all are, since hidden states may fill the memory."""
    fine = looks.losses.isfinite()
    return looks if bool(fine.all()) else looks.take(fine)


def _among(fine: Tensor, values: Tensor) -> Tensor:
    """A value for each row: NaN for those that are not fine."""
    return torch.full(fine.shape, torch.nan, dtype=values.dtype).masked_scatter(fine, values)


def _scores(rows: Encoded, looks: Looks, score: Tensor, **more: Any) -> Scores:
    return Scores.unweighted(rows, score.double().numpy(), loss=looks.losses.numpy(), visits=1, **more)
