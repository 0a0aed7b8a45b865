"""A hidden-state probe: theta is trained on the safe set, and one scorer for all rows reads what it makes of each row.

It is SEAL with gamma = 0 and omega_i = f(features of row i) in place of free logits (``scorer``). It costs one forward
pass over both sets, and an epoch over the safe set, or several if it is small (``bilevel.safe_steps``): theta must have
learned to refuse before it can distinguish a refusal from harm. It also scores rows that were not ranked.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sealtune.core import distributed
from sealtune.core.config import RankConfig
from sealtune.core.console import track
from sealtune.core.string_array import FloatArray, StringArray
from sealtune.core.types import Scores
from sealtune.data.batches import Batch, Batches, longest_first
from sealtune.data.encoded import Encoded
from sealtune.models.adapters import Player
from sealtune.models.state_dict import (
    SAVED_RANKER,
    State,
    Stateful,
    gather_states,
    restore_states,
    restoring,
    strip_prefix,
)
from sealtune.ranking import memmap, scorer
from sealtune.ranking.bilevel import safe_steps
from sealtune.ranking.job import SCORE_BYTES, Amounts, Cost, Job, Ranker
from sealtune.ranking.linear_models import MAX_EXAMPLES, subsample
from sealtune.ranking.loop import batch_size
from sealtune.ranking.marks import marks_of
from sealtune.ranking.neighbours import neighbours
from sealtune.ranking.progress import NonFiniteRows, Progress, finite_mean
from sealtune.ranking.row_map import row_map
from sealtune.ranking.safe_set import make_players, safe_batches, train_on_safe_set
from sealtune.ranking.scorer import Features, Scorer


def rank(job: Job) -> Scores:
    """The score of the scorer. Raises RunError if too many losses are not finite."""
    tuning = SafeTuning(job)
    candidates, safe = tuning.run()
    if len(job.candidates) == 1:  # nothing to compare with
        return _scores(job.candidates, candidates, torch.zeros(1))
    seed, finite = job.config.seed, candidates.losses.isfinite()
    ids, safe_ids = _ids(job.candidates, candidates), _ids(job.safe, safe)
    usable, safe = _finite(candidates), _finite(safe)
    marks = marks_of(job.decisions, ids)
    with track("rank: scorer") as advance:  # takes seconds, of many rows minutes; it is fitted on both halves, too
        fitted = scorer.fit_scorer(usable, safe, seed, marks)
        advance(1, 5)
        logits, safe_logits = scorer.probe_logits(usable, safe, seed, marks)
        advance(2, 5)
        errors = scorer.standard_errors(usable, safe, seed, marks)
        advance(4, 5)
        places = row_map(usable.responses, seed)
        alike = neighbours(usable.responses, safe.responses, ids, safe_ids)
        advance(5, 5)
    saved = fitted.scorer.tensors() | tuning.theta_weights() | {"safe_probe_logit": safe_logits}
    return _scores(
        job.candidates,
        candidates,
        _scatter(finite, fitted.score),
        standard_error=_scatter(finite, errors).numpy(),
        probe_logit=_scatter(finite, logits).numpy(),
        parts={name: _scatter(finite, values).numpy() for name, values in fitted.summands.items()},
        places=None if places is None else _scatter_rows(finite, places),
        neighbours=alike,
        selector={name: tensor.numpy() for name, tensor in saved.items()},
    )


def score(job: Job, saved: Mapping[str, Tensor]) -> Scores:
    """Scores of rows that were not ranked, on the scale of those that were; ``saved`` is ``Scores.selector``.

    Raises:
        UserError: another version saved it.
    """
    with restoring(SAVED_RANKER):
        fitted = Scorer.from_tensors(saved)
    theta = make_players(job, ["theta"])["theta"]
    with restoring(SAVED_RANKER):
        theta.load_state_dict(strip_prefix("theta.", saved))
    extractor = FeatureExtractor(job.candidates, job.config.rank.max_non_finite)
    extractor.run(theta, Progress(job.on_step, extractor.batches_left(theta)))
    return _scores(job.candidates, extractor.features, fitted(extractor.features))


SCORER_BYTES = 180
"""Host bytes per candidate while the scorer is fitted, measured: losses, components, logits, and copies of them."""


def cost(settings: RankConfig, amounts: Amounts) -> Cost:
    """One forward pass over both sets, and the training of theta."""
    batch = min(settings.safe_batch_size or batch_size(settings), max(1, amounts.safe_rows))
    per_epoch, candidate_batches = (max(1, ceil(rows / batch)) for rows in (amounts.safe_rows, amounts.rows))
    epochs = safe_steps(per_epoch, settings.num_train_epochs, candidate_batches) / per_epoch
    return Cost(
        forward=amounts.rows + (1 + epochs) * amounts.safe_rows,
        backward=epochs * amounts.safe_rows,
        players=1,
        host_bytes=SCORE_BYTES + SCORER_BYTES,
        stored_states=2,
        resumable=True,
    )


class SafeTuning:
    """Theta, trained on the safe set, and the features that it extracts from both sets: all that is resumed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.batches = safe_batches(job)
        self.theta = make_players(job, ["theta"])["theta"]
        max_share = job.config.rank.max_non_finite
        # The scorer is fitted on MAX_EXAMPLES safe rows, its standard errors on halves.
        used = subsample(torch.arange(len(job.safe)), 2 * MAX_EXAMPLES)
        self.candidates = FeatureExtractor(job.candidates, max_share)
        self.safe = FeatureExtractor(job.safe.take(used.numpy()), max_share)
        self.non_finite = NonFiniteRows(job.safe, max_share)
        self.progress = Progress(job.on_step, 0, self.state_dict)
        if job.resume:
            with restoring():
                self.load_state_dict(job.resume)
        batches = self.candidates.batches_left(self.theta) + self.safe.batches_left(self.theta)
        self.progress.total = max(self.progress.step, self.steps) + batches

    @property
    def steps(self) -> int:
        """Training steps of theta."""
        candidate_batches = -(-len(self.job.candidates) // self.batches.size)
        return safe_steps(self.batches.per_epoch, self.job.config.rank.num_train_epochs, candidate_batches)

    def run(self) -> tuple[Features, Features]:
        """Train theta, then extract the features of the candidates and of the safe set."""
        steps = range(self.progress.step, self.steps)
        train_on_safe_set(self.theta, self.batches, self.job, self.progress, steps, self.non_finite)
        for extractor in (self.candidates, self.safe):
            extractor.run(self.theta, self.progress)
        return self.candidates.features, self.safe.features

    def theta_weights(self) -> State:
        """The weights of theta, without the state of its optimiser."""
        return {f"theta.{k}": v for k, v in self.theta.state_dict().items() if k.startswith("parameter.")}

    @property
    def _parts(self) -> dict[str, Stateful]:
        sets = {"candidates": self.candidates, "safe": self.safe}
        return {"theta": self.theta, "non_finite": self.non_finite, **sets}

    def state_dict(self) -> State:
        """The tensors that a resumed ranking needs."""
        own = {"step": torch.tensor(self.progress.step), "batch_size": torch.tensor(self.batches.size)}
        return own | gather_states(self._parts)

    def load_state_dict(self, state: State) -> None:
        """Restore what ``state_dict`` returned; batches keep their size, with more or fewer processes too."""
        self.progress.step = int(state["step"])
        self.batches = Batches(self.batches.encoded, int(state["batch_size"]), self.job.config.seed, stream=1)
        restore_states(self._parts, state)


class FeatureExtractor:
    """Extracts the features of some rows batch by batch, the longest rows first."""

    def __init__(self, rows: Encoded, max_non_finite: float) -> None:
        self.rows = rows
        self.non_finite = NonFiniteRows(rows, max_non_finite)
        self.done = 0
        self.features = Features(torch.zeros(len(rows), dtype=torch.float64), torch.empty(0))
        self.in_memory = True  # until a batch shows how wide the hidden states are

    def batches_left(self, player: Player) -> int:
        """Batches not extracted yet."""
        return -(-(len(self.rows) - self.done) // _batch_size(player))

    def run(self, player: Player, progress: Progress) -> None:
        """Extract the remaining rows. Raises RunError if too many losses are not finite."""
        player.activate()
        for batch in longest_first(self.rows, _batch_size(player), self.done):
            found = _extract(player, batch)
            if not len(self.features.states):
                shape = (len(self.rows), *found.states.shape[1:])
                self.in_memory = memmap.fits_in_memory(*shape)
                self.features = Features(self.features.losses, memmap.empty(*shape))
            for part, values in zip(self.features, found, strict=True):
                part[batch.rows] = values
            self.non_finite.check(batch, self.features.losses[batch.rows])
            self.done += len(batch.rows)
            progress.report(len(batch.rows), batch.token_count, candidate_loss=finite_mean(found.losses))

    def state_dict(self) -> State:
        """What was extracted. Nothing once the features live in a scratch file: every checkpoint would take as long to
        write as the rows take to extract again.
        """
        if not self.in_memory:
            return FeatureExtractor(self.rows, 0).state_dict()
        own = {"done": torch.tensor(self.done), **self.features._asdict()}
        return own | gather_states({"non_finite": self.non_finite})

    def load_state_dict(self, state: State) -> None:
        """Restore what ``state_dict`` returned."""
        self.done = int(state["done"])
        restore_states({"non_finite": self.non_finite}, state)
        self.features = Features(*(state[name].clone() for name in Features._fields))
        sizes = {len(part) for part in self.features if self.done or part is self.features.losses}
        if sizes != {len(self.rows)} or not 0 <= self.done <= len(self.rows):
            raise ValueError(f"it holds {sorted(sizes)} rows, not {len(self.rows)}")


def _batch_size(player: Player) -> int:
    return player.micro_batch * distributed.num_processes()


def _extract(player: Player, batch: Batch) -> Features:
    """The features of a batch; each process extracts its share."""
    pieces = list(batch.split(player.micro_batch_for(len(batch.rows))))
    ((piece, counts),) = distributed.split_between_processes(pieces)
    found = []
    for part in player.model.extract_features(piece):
        gathered = part.new_zeros(len(batch.rows), *part.shape[1:])
        gathered[piece.indices] = part * counts
        found.append(distributed.all_reduce_sum(gathered))
    losses, *states = found
    return Features(losses, torch.stack(states, 1))


def _finite(features: Features) -> Features:
    """The rows whose loss is finite; no copy if all are, because hidden states may fill the memory."""
    finite = features.losses.isfinite()
    return features if bool(finite.all()) else features.take(finite)


def _ids(rows: Encoded, features: Features) -> StringArray:
    """The ids of the rows whose loss is finite."""
    return StringArray.of(rows.ids).take(features.losses.isfinite().nonzero().flatten().numpy())


def _scatter(mask: Tensor, values: Tensor) -> Tensor:
    """The values at the rows where the mask (N,) is true, NaN elsewhere."""
    return torch.full(mask.shape, torch.nan, dtype=values.dtype).masked_scatter(mask, values)


def _scatter_rows(mask: Tensor, values: FloatArray) -> FloatArray:
    """The values (K, 2) at the rows where the mask (N,) is true, NaN elsewhere."""
    found = np.full((len(mask), values.shape[1]), np.nan)
    found[mask.numpy()] = values
    return found


def _scores(rows: Encoded, features: Features, score: Tensor, **optional: Any) -> Scores:
    losses = features.losses.numpy()
    return Scores.unweighted(rows.ids, rows.source, score.double().numpy(), loss=losses, visits=1, **optional)


RANKER = Ranker(rank, cost, score=score, estimates_unsafe_share=True, learns_from_decisions=True)
