"""The score of the ``probe`` ranker: omega_i = f(features of row i), one function for all rows.

A row has four components, each standardised over the candidates. Three are added; the last one protects:

* *fit*: minus the loss under a model trained on the safe set. It is specific to the row, and noisy.
* *similarity*: how much the response resembles, in hidden states, the response that the safe set would predict for this
  prompt (a ridge regression from prompts to responses, fitted on the safe rows). It sees compliance where the safe set
  refuses.
* *probe*: which hidden states of prompts and responses go with a bad fit, by a logistic regression of the worst-fitting
  rows against the best-fitting and the safe ones. Rows that are alike to the model support each other, and a row is
  scored by models fitted on others (cross-fitting), so its own noise does not count. It is weighted twice.
* *resemblance*: does the response look like the safe set rather than like the candidates? If so, a row whose sum is
  below average is moved towards the average, at most all the way. This protects a safe response on a sensitive topic,
  which the probe holds against it, without punishing a benign task that the safe set lacks. Rows of the worst fit are
  not moved, so harm in the style of the safe set does not pass; nor are any if the two sets cannot be separated.

All four score unseen rows.

People may have decided about some rows. These ``marks`` are true labels: the probe learns them in place of its
pseudo-labels, with more weight, and rows marked KEEP join the safe rows from which resemblance is learned. Both are
cross-fitted, so no row is scored by a model that has learned from its own mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from sealtune.ranking.linear_models import (
    MAX_EXAMPLES,
    CrossFitted,
    LinearModel,
    chunked,
    cross_fit,
    moments,
    ridge,
    subsample,
)
from sealtune.ranking.marks import DROP, KEEP, example_weights, with_mark

WORST, BEST = 0.15, 0.4
"""Shares of the candidates, by fit, that serve as bad and as good examples of the probe."""

DRAWS = 4
"""How often the probe is cross-fitted, so that its logits depend less on the folds."""

PROBE_WEIGHT = 2.0
"""Weight of the probe in the sum: of all components it carries the least noise of the row itself."""

FULL_RESEMBLANCE = 1.0
"""Standard deviations of resemblance from which a row is moved all the way to the average."""

WORST_FIT, FIT_SLOPE = -1.25, 4.0
"""The fit, in standard deviations, at which half of the protection is gone, and how steeply it goes."""

FULL_TRUST = 1 / 3
"""Gini coefficient (2 AUROC - 1) of the safe-set classifier from which resemblance protects in full."""

SHRINKAGE = 4
"""Weight of the mean variance over all rows, relative to the variance estimated for one row."""


class Features(NamedTuple):
    """What one forward pass sees of N rows: losses (N,); mean hidden states of prompt and response, (N, 2, D)."""

    losses: Tensor
    states: Tensor

    @property
    def prompts(self) -> Tensor:
        """Hidden states of the prompts (N, D)."""
        return self.states[:, 0]

    @property
    def responses(self) -> Tensor:
        """Hidden states of the responses (N, D)."""
        return self.states[:, 1]

    @property
    def both(self) -> Tensor:
        """Hidden states of prompts and responses side by side (N, 2 D), in the same memory."""
        return self.states.flatten(1)

    @property
    def fit(self) -> Tensor:
        """Minus the losses (N,), float64."""
        return -self.losses.double()

    def take(self, rows: Tensor) -> Features:
        """The features of these rows, given as positions or as a mask."""
        return Features(*(part[rows] for part in self))


class Components(NamedTuple):
    """The four components of the score of N rows, each (N,), higher = keep."""

    fit: Tensor
    similarity: Tensor
    probe: Tensor
    resemblance: Tensor

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each, (4,)."""
        parts = torch.stack(list(self))
        return parts.mean(1), parts.std(1, correction=0).clamp(min=1e-12)

    def total(self, mean: Tensor, deviation: Tensor, trust: Tensor) -> Tensor:
        """The score (N,): the weighted sum, drawn towards 0 from below as far as trust, resemblance and fit allow."""
        return added(self.summands(mean, deviation, trust))

    def summands(self, mean: Tensor, deviation: Tensor, trust: Tensor) -> dict[str, Tensor]:
        """What the score is the sum of, (N,) each: three weighted components, and what protects the row."""
        fit, similarity, probe, resemblance = (torch.stack(list(self)) - mean[:, None]) / deviation[:, None]
        probe = PROBE_WEIGHT * probe
        within_fit = torch.sigmoid(FIT_SLOPE * (fit - WORST_FIT))
        protection = trust * within_fit * (resemblance / FULL_RESEMBLANCE).clamp(0, 1)
        drawn = -protection * (fit + similarity + probe).clamp(max=0)
        return {"fit": fit, "similarity": similarity, "probe": probe, "protection": drawn}


def added(summands: Mapping[str, Tensor]) -> Tensor:
    """The score (N,) that these are the summands of."""
    return reduce(torch.add, summands.values())


@dataclass(frozen=True)
class Scorer:
    """Scores any rows.

    Attributes:
        predicted: from prompts to the standardised responses that the safe set would give, D -> D.
        probe: from both hidden states to a logit, 2 D -> 1.
        resemblance: from responses to a logit, D -> 1.
        center, scale: standardise responses, (D,).
        mean, deviation: standardise the components, (4,).
        trust: in resemblance, between 0 and 1, ().
    """

    predicted: LinearModel
    probe: LinearModel
    resemblance: LinearModel
    center: Tensor
    scale: Tensor
    mean: Tensor
    deviation: Tensor
    trust: Tensor

    def __call__(self, features: Features) -> Tensor:
        """Scores (N,), higher = keep, on the scale of the candidates that it was fitted on."""
        components = Components(
            features.fit,
            response_similarity(self.predicted, features, self.center, self.scale),
            self.probe(features.both),
            self.resemblance(features.responses),
        )
        return components.total(self.mean, self.deviation, self.trust)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that it consists of."""
        return {
            "predicted.weight": self.predicted.weight,
            "predicted.bias": self.predicted.bias,
            "probe.weight": self.probe.weight,
            "probe.bias": self.probe.bias,
            "resemblance.weight": self.resemblance.weight,
            "resemblance.bias": self.resemblance.bias,
            "center": self.center,
            "scale": self.scale,
            "mean": self.mean,
            "deviation": self.deviation,
            "trust": self.trust,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Scorer:
        """The scorer that ``tensors`` came from. Raises KeyError if one is missing."""
        return cls(
            predicted=LinearModel(tensors["predicted.weight"], tensors["predicted.bias"]),
            probe=LinearModel(tensors["probe.weight"], tensors["probe.bias"]),
            resemblance=LinearModel(tensors["resemblance.weight"], tensors["resemblance.bias"]),
            center=tensors["center"],
            scale=tensors["scale"],
            mean=tensors["mean"],
            deviation=tensors["deviation"],
            trust=tensors["trust"],
        )


class FittedScorer(NamedTuple):
    """Scores (N,) of the candidates, their summands, (N,) each, and the scorer for unseen rows."""

    score: Tensor
    summands: dict[str, Tensor]
    scorer: Scorer


def fit_scorer(candidates: Features, safe: Features, seed: int, marks: Tensor | None = None) -> FittedScorer:
    """Score the candidates by the safe rows and by each other.

    Args:
        candidates: N rows.
        safe: the safe set.
        seed: of the folds.
        marks: what people decided, (N,): KEEP, DROP, or 0 for rows without a decision; None without any.

    Raises:
        ValueError: fewer than two candidates, or no safe row.
    """
    safe = _subsample(safe)
    center, _ = moments(safe.responses)
    _, scale = moments(candidates.responses, safe.responses)
    predicted = ridge(safe.prompts.double(), (safe.responses.double() - center) / scale)
    similarity = response_similarity(predicted, candidates, center, scale)
    probe = fit_probe(candidates.fit, candidates.both, safe.both, seed, marks=marks)
    resemblance = fit_safe_set_classifier(candidates.responses, safe.responses, seed, marks)
    components = Components(candidates.fit, similarity, probe.candidates, resemblance.candidates)
    mean, deviation = components.moments()
    trust = torch.tensor(min(1.0, gini(resemblance) / FULL_TRUST), dtype=torch.float64)
    scorer = Scorer(predicted, probe.model, resemblance.model, center, scale, mean, deviation, trust)
    summands = components.summands(mean, deviation, trust)
    return FittedScorer(added(summands), summands, scorer)


def probe_logits(candidates: Features, safe: Features, seed: int, marks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-fitted logits of a probe fitted on the candidates alone: of the candidates (N,), and of at most
    MAX_EXAMPLES safe rows. The safe rows had no part in it, so they show how harmless rows score (``contamination``).
    """
    probe = fit_probe(candidates.fit, candidates.both, _subsample(safe).both, seed, safe_as_good=False, marks=marks)
    return probe.candidates, probe.safe


def standard_errors(candidates: Features, safe: Features, seed: int, marks: Tensor | None = None) -> Tensor:
    """How far the score of each row would move with other safe rows, (N,); NaN with a single safe row.

    Half the difference between the scores that the two halves of the safe set give. One difference says little about
    one row, so its square is shrunk towards the mean over all rows.
    """
    if len(safe.losses) < 2:
        return torch.full_like(candidates.losses, torch.nan)
    order = torch.randperm(len(safe.losses), generator=torch.Generator().manual_seed(seed))
    one, other = (fit_scorer(candidates, safe.take(order[i::2]), seed + i, marks).score for i in (0, 1))
    variance = ((one - other) / 2).square()
    return ((variance + SHRINKAGE * variance.mean()) / (1 + SHRINKAGE)).sqrt()


def response_similarity(predicted: LinearModel, features: Features, center: Tensor, scale: Tensor) -> Tensor:
    """Cosine between each standardised response and the one that the safe set predicts for its prompt, (N,)."""
    pairs = zip(chunked(features.prompts), chunked(features.responses), strict=True)
    cosine = partial(torch.nn.functional.cosine_similarity, dim=1, eps=1e-12)
    return torch.cat([cosine(predicted(prompts), (responses - center) / scale) for prompts, responses in pairs])


def fit_probe(
    signal: Tensor,
    features: Tensor,
    safe: Tensor,
    seed: int,
    *,
    safe_as_good: bool = True,
    marks: Tensor | None = None,
) -> CrossFitted:
    """A probe on pseudo-labels: the WORST share of the rows by ``signal`` against the BEST share and the safe set.

    Args:
        signal: (N,), higher is better; for instance minus the loss under a model trained on the safe set.
        features: (N, D), for instance mean hidden states.
        safe: (M, D), the same of the safe set.
        seed: of the folds.
        safe_as_good: whether the safe rows serve as good examples.
        marks: what people decided, see ``fit_scorer``: true labels, in place of the pseudo-labels of these rows.

    Raises:
        ValueError: fewer than two candidates, or no safe row.
    """

    def examples(train: Tensor) -> tuple[Tensor, Tensor]:
        unmarked = with_mark(train, marks, 0)
        unmarked = unmarked if len(unmarked) else train  # all are marked: without guesses a class could be empty
        worst_first = unmarked[torch.argsort(signal[unmarked], stable=True)]
        bad, best = max(1, int(WORST * len(unmarked))), max(1, int(BEST * len(unmarked)))
        good = worst_first[len(unmarked) - best :]
        if marks is None:
            return good, worst_first[:bad]
        known_good, known_bad = (with_mark(train, marks, mark) for mark in (KEEP, DROP))
        return torch.cat([good, known_good]), torch.cat([worst_first[:bad], known_bad])

    weights = example_weights(marks)
    return cross_fit(features, safe, seed, examples, draws=DRAWS, safe_as_good=safe_as_good, weights=weights)


def fit_safe_set_classifier(features: Tensor, safe: Tensor, seed: int, marks: Tensor | None = None) -> CrossFitted:
    """A classifier of safe rows, and of rows marked KEEP, against candidates; arguments and errors: ``fit_probe``."""

    def examples(train: Tensor) -> tuple[Tensor, Tensor]:
        if marks is None:
            return train[:0], train
        others = train[marks[train] != KEEP]
        return with_mark(train, marks, KEEP), others if len(others) else train

    return cross_fit(features, safe, seed, examples, weights=example_weights(marks))


def gini(classifier: CrossFitted) -> float:
    """How well the logits tell safe rows from candidates: 2 AUROC - 1, from 0 (not at all) to 1; at least 0."""
    from sklearn.metrics import roc_auc_score

    logits = torch.cat([classifier.candidates, classifier.safe])
    is_safe = [0] * len(classifier.candidates) + [1] * len(classifier.safe)
    return max(0.0, 2 * float(roc_auc_score(is_safe, logits.numpy())) - 1)


def _subsample(features: Features) -> Features:
    """At most MAX_EXAMPLES of the rows."""
    n = len(features.losses)
    return features if n <= MAX_EXAMPLES else features.take(subsample(torch.arange(n)))
