"""The guard: the safe set stays in force while the model is tuned.

    min over theta   (1/N) sum_i w_i l_i(theta)                                             (1)  task
    s.t.  S_refuse(theta) <= eps,   S_help(theta) <= eps                                    (2)  constraint

S is the mean distance from what the safe set asks for, over rows whose answer refuses and over rows whose answer helps.
Of one row it is

    teach   S_i = l_i(theta) - l_i(theta_0)          the safe answer is learned
    keep    S_i = KL(pi_0 || pi_theta), mean over the first response tokens          the start model is kept

in nats per response token; both are 0 at the start model theta_0. The Lagrangian

    (1/N) sum_i w_i l_i(theta) + (1/M) sum_j lambda_j S_j(theta)                            (3)

over M safe rows, where lambda_j is lambda_refuse or lambda_help, is SEAL's penalty objective with lambda = (1 - gamma)
/ gamma. A step takes a few safe rows, as many of either kind. A third of the safe set is never learned from. There the
constraint is watched, and lambda follows by dual ascent                                    (4)

    lambda <- max(lambda_0, lambda + rho (S - eps))

Source: Shen, Chen, Das, Chen (ICLR 2025), arXiv 2410.07471, section 3, for the penalty; SPARD (ICML 2026, arXiv
2605.28030) for safety as a constraint; "safety-tuned LLaMAs" (Bianchi et al., ICLR 2024, arXiv 2309.07875) for teach;
dark experience replay (Buzzega et al., NeurIPS 2020, arXiv 2004.07211), with the start model as teacher, for keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sealtune.core.string_array import FloatArray, IntArray
from sealtune.models.losses import row_means
from sealtune.models.predictions import Predictions, TopLogProbs, divergence, top_log_probs
from sealtune.tuning.guard_rows import BoolArray, GuardRows, GuardSampler, response_positions

Mode = Literal["teach", "keep", "auto"]
Forward = Callable[[Tensor, Tensor], Predictions]
"""Predictions at the tokens where the mask (B, T) is true, of token ids (B, T)."""
Record = dict[str, float]
"""Step, S_refuse and S_help, as far as there are such rows, and J (``gap``)."""
Refusal = Callable[[Sequence[Sequence[int]]], Tensor]
"""Probabilities (P,) that the model refuses these prompts."""

KEPT_TOKENS = 32
"""Response tokens of a row whose distribution is kept: alignment that is lost is lost in the first ones."""
SLACK = 0.02
"""eps: nats per token by which S may exceed its value at the start model."""
DUAL_RATE = 2.0
"""rho."""
MAX_LAMBDA = 8.0
WATCHES = 5
"""How often the rows that are watched are measured during a training, at most."""
MIN_STEPS_BETWEEN = 8
"""Steps between two measurements, at least: they cost as much as some steps."""
LIKELY = 0.2
"""Probability of a listed opening above which an answer counts as a refusal: the list is not complete."""
MEASURED_AT_ONCE = 16
"""Rows per forward pass that needs no gradient."""


class GuardSettings(NamedTuple):
    """How the guard works.

    Attributes:
        mode: ``teach``, ``keep``, or ``auto``: teach the rows on which the start model does not do as the safe answer
            does (refuse or help), keep the others.
        weight: lambda_0.
        rows: Safe rows per step, in all processes together.
        tolerance: J that may be lost before an earlier step of the training is preferred to a later one.
        seed: Of the split and of the order of the rows.
    """

    mode: Mode = "teach"
    weight: float = 0.5
    rows: int = 2
    tolerance: float = 0.02
    seed: int = 0


class Anchors(NamedTuple):
    """What the start model does on M safe rows.

    Attributes:
        teach: (M,), whether the answer is learned; otherwise the start model is kept.
        losses: (M,), nats per response token.
        top: What it predicts on the first response tokens of each row; None where the answer is learned.
    """

    teach: BoolArray
    losses: FloatArray
    top: list[TopLogProbs | None]


class Guard:
    """The safe rows, their anchors in the start model, and the multipliers.

    Attributes:
        multipliers: lambda of either half.
        limits: eps of either half.

    Args:
        rows: The safe set.
        settings: How the guard works.
        steps: Steps of the training.
        forward: Predictions of the model, which must be the start model when the guard is made.
        refusal: Probabilities that the model refuses.
        part: Which of how many equal parts of each step's rows this process learns from.
    """

    def __init__(
        self,
        rows: GuardRows,
        settings: GuardSettings,
        steps: int,
        forward: Forward,
        refusal: Refusal,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.settings = settings
        self.forward, self.refusal, self.part = forward, refusal, part
        self.trained, self.watched = rows.split(settings.seed, most=steps * settings.rows)
        self.sampler = GuardSampler(self.trained, settings.rows, settings.seed)
        self.every = max(MIN_STEPS_BETWEEN, -(-steps // WATCHES))
        self.anchors = self._anchor(self.trained)
        self.watched_anchors = self._anchor(self.watched)
        self.multipliers = {"refuse": settings.weight, "help": settings.weight}
        self.limits = {"refuse": SLACK, "help": SLACK}
        self.history: list[Record] = [self.measure(0)]
        self.best: Record | None = None

    # -- learning ----------------------------------------------------------------------------------------------------

    def loss(self, step: int) -> tuple[Tensor, Tensor]:
        """The last term of (3) on the safe rows of a step, and the sums of their distances (``sums_of_halves``)."""
        number, count = self.part
        rows = self.sampler.at(step)[number::count]
        distances = self._distances(self.trained, self.anchors, rows)
        refuses = torch.from_numpy(self.trained.refuses[rows]).to(distances.device)
        weights = torch.where(refuses, self.multipliers["refuse"], self.multipliers["help"])
        return (weights * distances).mean(), sums_of_halves(distances.detach(), refuses)

    def _distances(self, rows: GuardRows, anchors: Anchors, chosen: IntArray) -> Tensor:
        """S_i, (B,), of the chosen rows."""
        batch = rows.pad(chosen)
        teach = torch.from_numpy(anchors.teach[chosen])
        first = response_positions(batch.mask, KEPT_TOKENS)
        needed = torch.where(teach[:, None], batch.mask, first)
        predictions = self.forward(batch.tokens, needed)
        device = predictions.values.device
        row_of_token = needed[:, 1:].nonzero()[:, 0]
        taught = teach[row_of_token]
        values = torch.zeros(len(row_of_token), device=device)
        if taught.any():
            places = taught.nonzero()[:, 0].to(device)
            targets = batch.tokens[:, 1:][needed[:, 1:]][taught].to(device)
            values = values.index_put((places,), predictions.at(places).losses(targets))
        if not taught.all():
            places = (~taught).nonzero()[:, 0].to(device)
            start = TopLogProbs.join([top for i in chosen.tolist() if (top := anchors.top[i]) is not None])
            values = values.index_put((places,), divergence(start.to(device), predictions.at(places)))
        offsets = torch.from_numpy(np.where(anchors.teach[chosen], anchors.losses[chosen], 0.0)).to(values)
        return row_means(values, needed[:, 1:].to(device)) - offsets

    # -- watching ----------------------------------------------------------------------------------------------------

    def is_due(self, step: int) -> bool:
        """Whether the watched rows are measured after this step, counted from 1, if it is not the last."""
        return step % self.every == 0

    def watch(self, step: int) -> bool:
        """Measure the watched rows after a step, and move the multipliers (4).

        Returns:
            Whether this step is preferred to all before it.
        """
        record = self.measure(step)
        self.history.append(record)
        for name in self.multipliers:
            if name in record:
                raised = self.multipliers[name] + DUAL_RATE * (record[name] - self.limits[name])
                self.multipliers[name] = min(max(raised, self.settings.weight), MAX_LAMBDA)
        if self._prefers(record):
            self.best = record
        return self.best is record

    def _prefers(self, record: Record) -> bool:
        """Whether a measurement is preferred to the best one so far: if it is as safe as the start model, for it has
        learned more of the task; otherwise only to one that is less safe than itself.
        """
        if self.best is None or self._is_safe(record):
            return True
        return not self._is_safe(self.best) and record["J"] >= self.best["J"]

    def _is_safe(self, record: Record) -> bool:
        """Whether harmful and harmless prompts are told apart as well as by the start model."""
        return record["J"] >= self.history[0]["J"] - self.settings.tolerance - 1e-9

    def is_satisfied(self, record: Record) -> bool:
        """Whether a measurement satisfies (2): the model is as safe as the start model where it is watched."""
        within = all(record[name] <= limit for name, limit in self.limits.items() if name in record)
        return within and self._is_safe(record)

    @torch.no_grad()
    def measure(self, step: int) -> Record:
        """Step, S_refuse and S_help of the watched rows, and their J."""
        rows = self.watched
        found = [self._distances(rows, self.watched_anchors, chunk) for chunk in _chunks(len(rows))]
        refuses = torch.from_numpy(rows.refuses)
        prompts = [rows.prompt_of(i) for i in range(len(rows))]
        means = means_of_halves(sums_of_halves(torch.cat(found).cpu(), refuses))
        return {"step": float(step)} | means | {"J": gap(self.refusal(prompts), refuses)}

    # -- the start model ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _anchor(self, rows: GuardRows) -> Anchors:
        teach = self._is_taught(rows)
        losses, top = np.zeros(len(rows)), list[TopLogProbs | None]()
        for chosen in _chunks(len(rows)):
            batch = rows.pad(chosen)
            mask = batch.mask[:, 1:]
            predictions = self.forward(batch.tokens, batch.mask)
            device = predictions.values.device
            found = predictions.losses(batch.tokens[:, 1:][mask].to(device))
            losses[chosen] = row_means(found, mask.to(device)).cpu().numpy()
            row_of_token = mask.nonzero()[:, 0]
            first = response_positions(batch.mask, KEPT_TOKENS)[:, 1:][mask]
            for i, row in enumerate(chosen.tolist()):
                places = (first & (row_of_token == i)).nonzero()[:, 0].to(device)
                top.append(None if teach[row] else top_log_probs(predictions.at(places)).to("cpu"))
        return Anchors(teach, losses, top)

    def _is_taught(self, rows: GuardRows) -> BoolArray:
        """Which answers (M,) are learned."""
        if self.settings.mode != "auto":
            return np.full(len(rows), self.settings.mode == "teach")
        refused = (self.refusal([rows.prompt_of(i) for i in range(len(rows))]) > LIKELY).numpy()
        return np.asarray(refused != rows.refuses)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What changes during the training, as JSON."""
        return {"multipliers": self.multipliers, "history": self.history, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.multipliers = {name: float(state["multipliers"][name]) for name in self.multipliers}
        self.history = [dict(record) for record in state["history"]]
        self.best = next((r for r in self.history if r == state["best"]), None)


def gap(refusal: Tensor, harmful: Tensor) -> float:
    """J: the mean probability (P,) of refusing harmful prompts minus that of refusing harmless ones.

    Unlike the AUROC it falls when all refusals vanish together. A half without prompts counts as 0.
    """
    halves = (refusal[harmful], refusal[~harmful])
    refused, over_refused = (float(half.double().mean()) if len(half) else 0.0 for half in halves)
    return refused - over_refused


def sums_of_halves(distances: Tensor, refuses: Tensor) -> Tensor:
    """Sums of the distances (B,), and numbers of rows, (2, 2): refusing rows, then helping ones."""
    halves = (distances[refuses], distances[~refuses])
    return torch.stack([torch.stack([half.sum(), half.new_tensor(len(half))]) for half in halves])


def means_of_halves(sums: Tensor) -> dict[str, float]:
    """The mean distances by half; no entry for a half without rows."""
    halves = zip(("refuse", "help"), sums.tolist(), strict=True)
    return {name: total / count for name, (total, count) in halves if count}


def _chunks(count: int) -> list[IntArray]:
    return [np.arange(start, min(start + MEASURED_AT_ONCE, count)) for start in range(0, count, MEASURED_AT_ONCE)]
