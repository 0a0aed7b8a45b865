"""Linear models on the features of rows, fitted by scikit-learn: ridge, logistic regression, and cross-fitting.

Features may be many, so rows are converted to float64 in chunks and at most MAX_EXAMPLES of a kind are fitted on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAX_EXAMPLES = 5_000
"""Examples of one class that a model is fitted on: more add nothing and take memory."""

CHUNK = 10_000
"""Rows that are held in float64 at once."""

RIDGE = 0.1
"""Ridge penalty, in mean squared norms of the standardised features."""


@dataclass(frozen=True)
class LinearModel:
    """x -> x @ weight + bias: weight (D,) or (D, K)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The value for each row of x (N, D): (N,) or (N, K), float64."""
        return torch.cat([part.double() @ self.weight + self.bias for part in chunked(x)])


class CrossFitted(NamedTuple):
    """Cross-fitted logits of the candidates (N,) and the safe rows (M,), and the mean model, for unseen rows."""

    candidates: Tensor
    safe: Tensor
    model: LinearModel


Examples = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From the training rows (K,) of a fold, positions among the candidates, to those labelled good and bad."""


def ridge(x: Tensor, y: Tensor, penalty: float = RIDGE) -> LinearModel:
    """Ridge regression of y (M, K) on the standardised columns of x (M, D)."""
    from sklearn.linear_model import Ridge

    mean, deviation = moments(x)
    z = (x - mean) / deviation
    alpha = max(penalty * float(z.square().sum()) / len(x), 1e-6)
    fitted = Ridge(alpha=alpha, solver="cholesky").fit(z.numpy(), y.numpy())
    weight = torch.from_numpy(fitted.coef_).T / deviation[:, None]
    return LinearModel(weight, torch.from_numpy(fitted.intercept_) - mean @ weight)


def logistic_regression(
    good: Tensor, bad: Tensor, strength: float = 0.01, weights: tuple[Tensor, Tensor] | None = None
) -> LinearModel:
    """Separates ``good`` (G, D) from ``bad`` (B, D), both classes weighted alike; positive logits mean good.

    Args:
        good: examples.
        bad: counter-examples.
        strength: the inverse of the L2 penalty.
        weights: of the examples within their class, (G,) and (B,); None for equal weights.
    """
    from sklearn.linear_model import LogisticRegression

    x = torch.cat([good, bad]).double().numpy()
    y = [1] * len(good) + [0] * len(bad)
    if weights is None:
        balance, sample_weight = "balanced", None
    else:  # each class weighs half as much as there are examples, as in "balanced"
        balance, sample_weight = None, torch.cat([w / w.sum() * len(y) / 2 for w in weights]).numpy()
    model = LogisticRegression(C=strength, class_weight=balance, tol=1e-7, max_iter=1000)
    fitted = model.fit(x, y, sample_weight)
    return LinearModel(torch.from_numpy(fitted.coef_[0]), torch.tensor(fitted.intercept_[0]))


def cross_fit(
    features: Tensor,
    safe: Tensor,
    seed: int,
    examples: Examples,
    *,
    draws: int = 1,
    safe_as_good: bool = True,
    weights: Tensor | None = None,
) -> CrossFitted:
    """A logistic regression of good and safe rows against bad ones; each row is scored by models not fitted on it.

    Args:
        features: of the candidates, (N, D).
        safe: features of the safe set, (M, D).
        seed: of the folds.
        examples: labels the training rows of a fold.
        draws: how many times the rows are divided into folds; the mean over the draws depends less on the folds.
        safe_as_good: whether safe rows serve as good examples, too; otherwise they are only scored.
        weights: of the candidates as examples, (N,), at least 1; rows that weigh more are never left out. None: all 1.

    Raises:
        ValueError: fewer than two candidates, or no safe row.

    Source: cross-fitting, and repeating it, after Chernozhukov et al. (2018), "Double/debiased machine learning",
    sections 3.1 and 3.4.
    """
    if len(features) < 2 or not len(safe):
        raise ValueError("a probe needs at least two candidates and one safe row")
    folds = CrossFitting(features, safe, examples, safe_as_good, weights)
    generator = torch.Generator().manual_seed(seed)
    fitted = [folds.draw(generator) for _ in range(draws)]
    candidates, safe_logits = (torch.stack([getattr(draw, name) for draw in fitted]).mean(0) for name in SETS)
    return CrossFitted(candidates, safe_logits, mean_model([draw.model for draw in fitted]))


SETS = ("candidates", "safe")


class CrossFitting:
    """The rows of one probe, standardised by the candidates, and the examples that it is fitted on."""

    def __init__(
        self, features: Tensor, safe: Tensor, examples: Examples, safe_as_good: bool, weights: Tensor | None
    ) -> None:
        self.features = features
        self.safe = safe
        self.examples = examples
        self.safe_as_good = safe_as_good
        self.weights = weights
        self.folds = max(2, min(5, len(features) // 4))
        self.mean, self.deviation = moments(features)

    def draw(self, generator: torch.Generator) -> CrossFitted:
        """Logits of both sets from one random division into folds, and the mean model of the folds."""
        fold, safe_fold = (torch.randperm(len(x), generator=generator) % self.folds for x in (self.features, self.safe))
        logits, safe_logits = (torch.empty(len(x), dtype=torch.float64) for x in (self.features, self.safe))
        models = []
        for k in range(self.folds):
            model = self.fit(fold != k, safe_fold != k)
            _fill(logits, self.features, fold == k, model)
            _fill(safe_logits, self.safe, safe_fold == k, model)
            models.append(model)
        return CrossFitted(logits, safe_logits, mean_model(models))

    def fit(self, train: Tensor, train_safe: Tensor) -> LinearModel:
        """The model fitted on the rows where ``train`` (N,) and ``train_safe`` (M,) are true."""
        good_rows, bad_rows = map(self._subsample, self.examples(torch.nonzero(train).flatten()))
        good, bad = self.features[good_rows], self.features[bad_rows]
        if self.safe_as_good:
            good = torch.cat([good, self.safe[train_safe] if len(self.safe) > 1 else self.safe])
        weights = None
        if self.weights is not None:  # those of safe rows, which follow the candidates, are 1
            weights = (self.weights.new_ones(len(good)), self.weights[bad_rows])
            weights[0][: len(good_rows)] = self.weights[good_rows]
        model = logistic_regression(
            (good - self.mean) / self.deviation, (bad - self.mean) / self.deviation, weights=weights
        )
        weight = model.weight / self.deviation
        return LinearModel(weight, model.bias - self.mean @ weight)

    def _subsample(self, rows: Tensor) -> Tensor:
        """At most MAX_EXAMPLES of these candidates, and all that weigh more than others."""
        if self.weights is None:
            return subsample(rows)
        heavy = self.weights[rows] > 1
        return torch.cat([subsample(rows[~heavy]), rows[heavy]])


def _fill(logits: Tensor, features: Tensor, held_out: Tensor, model: LinearModel) -> None:
    """Write the model's logits of the held-out rows, chunk by chunk."""
    for rows in chunked(torch.nonzero(held_out).flatten()):
        logits[rows] = model(features[rows])


def mean_model(models: list[LinearModel]) -> LinearModel:
    """The mean of several models."""
    weight, bias = (torch.stack([getattr(model, name) for model in models]).mean(0) for name in ("weight", "bias"))
    return LinearModel(weight, bias)


def chunked(x: Tensor) -> tuple[Tensor, ...]:
    """The rows of x, CHUNK at a time."""
    return torch.split(x, CHUNK)


def subsample(rows: Tensor, limit: int | None = None) -> Tensor:
    """At most ``limit`` of these positions, else MAX_EXAMPLES, evenly spaced."""
    limit = MAX_EXAMPLES if limit is None else limit
    if len(rows) <= limit:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, limit).long()]


def moments(*sets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) over the rows of all sets (N_i, D), float64, chunk by chunk."""
    chunks = [chunk for rows in sets for chunk in chunked(rows)]
    n = sum(len(chunk) for chunk in chunks)
    mean = sum(chunk.double().sum(0) for chunk in chunks) / n
    square = sum((chunk.double() - mean).square().sum(0) for chunk in chunks) / n
    return torch.as_tensor(mean), torch.as_tensor(square).sqrt().clamp(min=1e-6)
