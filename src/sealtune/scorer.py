"""A scorer shared by all rows: omega_i = f(features of row i), taught by a signal that knows each row only by itself.

A free logit a row sees one noisy number. A shared scorer lets rows that look alike to the model vouch for each other:
it learns which direction of the hidden states goes with a bad signal, and a row is judged by others than itself
(cross-fitting), so it cannot learn its own noise. It also scores rows never seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORST, BEST = 0.15, 0.4
"""Shares of the candidates that serve as examples of bad and good rows."""


def teach(signal: Tensor, features: Tensor, safe: Tensor, seed: int, folds: int = 5) -> Tensor:
    """Scores (N,), higher = like the rows that fit, from a signal (N,) of which higher is better too.

    A logistic regression learns the WORST share of the rows against the BEST share and the safe set; each row is scored
    by the regression of the folds that it is not in.

    Args:
        signal: (N,), for instance minus the loss under a model tuned on the safe set.
        features: (N, D), for instance mean hidden states of the responses.
        safe: (M, D), the same of the safe set.
        seed: of the folds.
        folds: parts of cross-fitting; fewer where there are few rows.

    Raises:
        ValueError: fewer than two rows or no safe row.

    Source: cross-fitting after Chernozhukov et al. (2018), "Double/debiased machine learning", section 3.
    """
    if len(features) < 2 or not len(safe):
        raise ValueError("a shared scorer needs at least two rows and one safe row")
    features, safe = standardise(features.double(), safe.double())
    folds = max(2, min(folds, len(features) // 4))
    generator = torch.Generator().manual_seed(seed)
    fold = torch.randperm(len(features), generator=generator) % folds
    scores = torch.empty(len(features), dtype=torch.float64)
    for k in range(folds):
        known, unknown = features[fold != k], features[fold == k]
        worst_first = known[torch.argsort(signal[fold != k], stable=True)]
        bad = worst_first[: max(1, int(WORST * len(known)))]
        best = worst_first[len(known) - max(1, int(BEST * len(known))) :]
        weight, bias = logistic_regression(torch.cat([best, safe]), bad)
        scores[fold == k] = unknown @ weight + bias
    return scores


def standardise(features: Tensor, safe: Tensor) -> tuple[Tensor, Tensor]:
    """Both shifted and scaled by the mean and deviation of the candidates' features."""
    mean, deviation = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
    return (features - mean) / deviation, (safe - mean) / deviation


def logistic_regression(good: Tensor, bad: Tensor, strength: float = 0.01) -> tuple[Tensor, Tensor]:
    """Weight (D,) and bias () that separate ``good`` (G, D) from ``bad`` (B, D), both classes counting alike.

    Minimises |weight|^2 / 2 + strength * sum_i c_i log(1 + exp(-y_i (x_i weight + bias))), c_i balancing the classes,
    by L-BFGS: convex, so the answer does not depend on where it starts.
    """
    x = torch.cat([good, bad])
    y = torch.cat([torch.ones(len(good)), -torch.ones(len(bad))]).double()
    balance = torch.where(y > 0, len(x) / (2 * len(good)), len(x) / (2 * len(bad)))
    parameters = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        margin = y * (x @ parameters[:-1] + parameters[-1])
        fit = (balance * torch.nn.functional.softplus(-margin)).sum()
        loss = parameters[:-1].square().sum() / 2 + strength * fit
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return parameters[:-1].detach(), parameters[-1].detach()
