"""A scorer shared by all rows: omega_i = f(what the model makes of row i), in place of one free logit a row.

Four judgements of a row, each in standard deviations over the candidates; three are added, the last tempers the sum:

* *fit*: minus its loss under a model that learned the safe set. It knows each row only by itself, with much noise.
* *contrast*: how much the response looks, in hidden states, like the one that the safe set would give to this prompt
  (a ridge regression from prompts to responses, learned on the safe rows). It knows compliance where the safe set
  refuses.
* *shared*: which hidden states of prompts and responses go with a bad fit, by a logistic regression of the
  worst-fitting rows against the best-fitting and the safe ones. Rows that look alike to the model vouch for each other;
  a row is judged by others than itself (cross-fitting), so no row learns its own noise. It counts twice.
* *resemblance*: does the response look like one of the safe set rather than of the candidates? Then a row whose sum is
  below the middle is moved towards it, at most all the way: a safe answer to a sensitive prompt, whose topic the shared
  part holds against it, is protected; a benign task that the safe set lacks is not punished. Rows of the worst fit are
  not moved, so harm in the style of the safe set does not pass; nor is any where the two sets cannot be told apart.

All four score rows never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sealtune.regression import MOST, Fitted, Line, chunked, cross_fit, moments, ridge, thin

WORST, BEST = 0.15, 0.4
"""Shares of the candidates that serve as examples of bad and good rows."""

DRAWS = 4
"""How often the shared part is cross-fitted: the margins, and the share of unsafe rows told from them, depend less on
who is in which fold."""

SHARED = 2.0
"""Weight of the shared part: it has the least noise of a row's own."""

ALIKE = 1.0
"""Deviations of resemblance from which a row is moved all the way to the middle."""

WORST_FIT, STEEP = -1.25, 4.0
"""Where, in deviations of the fit, half of the protection is gone, and how steeply it goes."""

SKILLED = 1 / 3
"""Skill (2 AUROC - 1) from which resemblance protects in full."""

POOLED = 4
"""Weight of the doubt of all rows beside a row's own."""


class Looks(NamedTuple):
    """What one forward pass sees of N rows: losses (N,); mean hidden states of prompt and response (N, 2, D)."""

    losses: Tensor
    states: Tensor

    @property
    def prompts(self) -> Tensor:
        """States of the prompts (N, D)."""
        return self.states[:, 0]

    @property
    def responses(self) -> Tensor:
        """States of the responses (N, D)."""
        return self.states[:, 1]

    @property
    def features(self) -> Tensor:
        """Both (N, 2 D), in the same memory."""
        return self.states.flatten(1)

    def take(self, rows: Tensor) -> Looks:
        """Of these rows alone."""
        return Looks(*(part[rows] for part in self))


class Parts(NamedTuple):
    """The four judgements of N rows, each (N,), higher = keep."""

    fit: Tensor
    contrast: Tensor
    shared: Tensor
    resemblance: Tensor

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each, (4,)."""
        parts = torch.stack(list(self))
        return parts.mean(1), parts.std(1, correction=0).clamp(min=1e-12)

    def total(self, middle: Tensor, scale: Tensor, trust: Tensor) -> Tensor:
        """Their sum (N,), shifted and scaled; below 0 it comes nearer to 0, as trust, resemblance and fit allow."""
        fit, contrast, shared, resemblance = (torch.stack(list(self)) - middle[:, None]) / scale[:, None]
        added = fit + contrast + SHARED * shared
        protected = trust * torch.sigmoid(STEEP * (fit - WORST_FIT)) * (resemblance / ALIKE).clamp(0, 1)
        total: Tensor = added - protected * added.clamp(max=0)
        return total


@dataclass(frozen=True)
class Scorer:
    """Scores any rows: ``centre`` and ``spread`` (D,) are of responses, ``middle`` and ``scale`` (4,) of the parts;
    ``trust`` () in resemblance is between 0 and 1.
    """

    answer: Line
    shared: Line
    resemblance: Line
    centre: Tensor
    spread: Tensor
    middle: Tensor
    scale: Tensor
    trust: Tensor

    def __call__(self, looks: Looks) -> Tensor:
        """Scores (N,), higher = keep, on the scale of the candidates that it was learned from."""
        parts = Parts(
            -looks.losses.double(),
            likeness(self.answer, looks, self.centre, self.spread),
            self.shared(looks.features),
            self.resemblance(looks.responses),
        )
        return parts.total(self.middle, self.scale, self.trust)

    def tensors(self) -> dict[str, Tensor]:
        """All that it is made of."""
        parts = {f"{name}.{part}": getattr(getattr(self, name), part) for name in _LINES for part in ("weight", "bias")}
        return parts | {name: getattr(self, name) for name in _PLAIN}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Scorer:
        """What ``tensors`` gave. Raises KeyError where one is missing."""
        answer, shared, alike = (Line(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in _LINES)
        return cls(answer, shared, alike, *(tensors[name] for name in _PLAIN))


_LINES, _PLAIN = ("answer", "shared", "resemblance"), ("centre", "spread", "middle", "scale", "trust")


class Learned(NamedTuple):
    """Scores (N,) of the candidates, and the scorer for rows never seen."""

    score: Tensor
    scorer: Scorer


def learn(candidates: Looks, safe: Looks, seed: int) -> Learned:
    """Judge the candidates by the safe rows and by each other.

    Raises:
        ValueError: fewer than two candidates, or no safe row.
    """
    safe = _few(safe)
    centre, _ = moments(safe.responses)
    _, spread = moments(candidates.responses, safe.responses)
    answer = ridge(safe.prompts.double(), (safe.responses.double() - centre) / spread)
    fit = -candidates.losses.double()
    contrast = likeness(answer, candidates, centre, spread)
    taught = teach(fit, candidates.features, safe.features, seed)
    alike = resemble(candidates.responses, safe.responses, seed)
    parts = Parts(fit, contrast, taught.candidates, alike.candidates)
    middle, scale = parts.moments()
    trust = torch.tensor(min(1.0, skill(alike) / SKILLED), dtype=torch.float64)
    scorer = Scorer(answer, taught.line, alike.line, centre, spread, middle, scale, trust)
    return Learned(parts.total(middle, scale, trust), scorer)


def margins(candidates: Looks, safe: Looks, seed: int) -> tuple[Tensor, Tensor]:
    """How harmless rows look, cross-fitted: the candidates (N,) and the safe rows, at most MOST.

    The shared part, taught by the candidates alone: so the safe rows, which had no part in it, show how harmless rows
    score (contamination.py).
    """
    fit = -candidates.losses.double()
    taught = teach(fit, candidates.features, _few(safe).features, seed, safe_teaches=False)
    return taught.candidates, taught.safe


def _few(looks: Looks) -> Looks:
    """At most MOST of the rows."""
    return looks if len(looks.losses) <= MOST else looks.take(thin(torch.arange(len(looks.losses))))


def doubts(candidates: Looks, safe: Looks, seed: int) -> Tensor:
    """How far the score of each row would move with other safe rows: a standard deviation, (N,); NaN with one safe row.

    Half the distance between the scores that the two halves of the safe set give. One distance says little of one row,
    so each counts beside POOLED times the mean of all.
    """
    if len(safe.losses) < 2:
        return torch.full_like(candidates.losses, torch.nan)
    order = torch.randperm(len(safe.losses), generator=torch.Generator().manual_seed(seed))
    one, other = (learn(candidates, safe.take(order[i::2]), seed + i).score for i in (0, 1))
    square = ((one - other) / 2).square()
    return ((square + POOLED * square.mean()) / (1 + POOLED)).sqrt()


def likeness(answer: Line, looks: Looks, centre: Tensor, spread: Tensor) -> Tensor:
    """Cosine between each standardised response and the one that the safe set would give to its prompt, (N,)."""
    pairs = zip(chunked(looks.prompts), chunked(looks.responses), strict=True)
    cosine = partial(torch.nn.functional.cosine_similarity, dim=1, eps=1e-12)
    return torch.cat([cosine(answer(prompts), (responses - centre) / spread) for prompts, responses in pairs])


def teach(signal: Tensor, features: Tensor, safe: Tensor, seed: int, safe_teaches: bool = True) -> Fitted:
    """What kind of row fits, learned from a signal (N,) of which higher is better; so are the scores.

    The WORST share of the rows against the BEST share and, if ``safe_teaches``, the safe set.

    Args:
        signal: (N,), for instance minus the loss under a model tuned on the safe set.
        features: (N, D), for instance mean hidden states.
        safe: (M, D), the same of the safe set.
        seed: of the folds.

    Raises:
        ValueError: fewer than two rows or no safe row.
    """

    def examples(known: Tensor) -> tuple[Tensor, Tensor]:
        worst_first = known[torch.argsort(signal[known], stable=True)]
        bad, best = max(1, int(WORST * len(known))), max(1, int(BEST * len(known)))
        return worst_first[len(known) - best :], worst_first[:bad]

    return cross_fit(features, safe, seed, examples, draws=DRAWS, safe_teaches=safe_teaches)


def resemble(features: Tensor, safe: Tensor, seed: int) -> Fitted:
    """Which rows look like the safe set rather than like the candidates; arguments and errors as of ``teach``."""
    return cross_fit(features, safe, seed, lambda known: (known[:0], known))


def skill(fitted: Fitted) -> float:
    """How well the scores tell safe rows from candidates: 2 AUROC - 1, 0 = not at all, 1 = always; at least 0."""
    below = torch.searchsorted(fitted.candidates.sort().values, fitted.safe).double().mean() / len(fitted.candidates)
    return max(0.0, float(2 * below - 1))
