"""Regressions that a scorer is made of, on features that may be many: float64 in chunks, examples up to a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MOST = 5_000
"""Examples of a kind that a regression learns from: more teach it nothing new and take memory."""

CHUNK = 10_000
"""Rows that are held in float64 at once."""

RIDGE = 0.1
"""Penalty of the contrast, in mean squared lengths of a safe prompt's features."""


@dataclass(frozen=True)
class Line:
    """x -> x @ weight + bias: weight (D,) or (D, K)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Of each row of x (N, D)."""
        return torch.cat([part.double() @ self.weight + self.bias for part in chunked(x)])


class Fitted(NamedTuple):
    """Cross-fitted scores of the candidates (N,) and the safe rows (M,), and the line that scores rows never seen."""

    candidates: Tensor
    safe: Tensor
    line: Line


Examples = Callable[[Tensor], tuple[Tensor, Tensor]]


def ridge(x: Tensor, y: Tensor, penalty: float = RIDGE) -> Line:
    """Ridge regression of y (M, K) on x (M, D), whose columns are standardised first."""
    mean, deviation = moments(x)
    z = (x - mean) / deviation
    gram = z.T @ z
    strength = (penalty * gram.trace() / len(x)).clamp(min=1e-6)
    weight = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), z.T @ (y - y.mean(0)))
    weight = weight / deviation[:, None]
    return Line(weight, y.mean(0) - mean @ weight)


def cross_fit(
    features: Tensor,
    safe: Tensor,
    seed: int,
    examples: Examples,
    folds: int = 5,
    draws: int = 1,
    safe_teaches: bool = True,
) -> Fitted:
    """A logistic regression of good and safe against bad rows; each row is scored by that of the folds it is not in.

    Args:
        features: of the candidates, (N, D).
        safe: of the safe set, (M, D).
        seed: of the folds.
        examples: is given the positions of the candidates that are known, and gives those that are good and bad.
        folds: parts that the rows are divided into; fewer where there are few rows.
        draws: how often they are divided anew; the mean of all is given, on which chance has less say.
        safe_teaches: whether the safe rows, too, are examples of good ones; else they are scored alone.

    Source: cross-fitting, and doing it repeatedly, after Chernozhukov et al. (2018), "Double/debiased machine
    learning", sections 3.1 and 3.4.
    """
    if len(features) < 2 or not len(safe):
        raise ValueError("a shared scorer needs at least two rows and one safe row")
    scaled, folds = moments(features), max(2, min(folds, len(features) // 4))
    generator = torch.Generator().manual_seed(seed)
    found = [_cross_fit_once(features, safe, generator, examples, folds, scaled, safe_teaches) for _ in range(draws)]
    scores, safe_scores, weights, biases = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
    return Fitted(scores, safe_scores, Line(weights, biases))


def _cross_fit_once(
    features: Tensor,
    safe: Tensor,
    generator: torch.Generator,
    examples: Examples,
    folds: int,
    scaled: tuple[Tensor, Tensor],
    safe_teaches: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores of both sets, mean weight and mean bias for one division into folds."""
    mean, deviation = scaled
    fold, safe_fold = (torch.randperm(len(rows), generator=generator) % folds for rows in (features, safe))
    scores, safe_scores = (torch.empty(len(rows), dtype=torch.float64) for rows in (features, safe))
    lines = []
    for k in range(folds):
        good, bad = (features[thin(chosen)] for chosen in examples(torch.nonzero(fold != k).flatten()))
        if safe_teaches:
            good = torch.cat([good, safe[safe_fold != k] if len(safe) > 1 else safe])
        line = logistic_regression((good - mean) / deviation, (bad - mean) / deviation)
        weight = line.weight / deviation
        lines.append(Line(weight, line.bias - mean @ weight))
        for rows, of_rows, chosen in ((features, scores, fold == k), (safe, safe_scores, safe_fold == k)):
            for part in chunked(torch.nonzero(chosen).flatten()):
                of_rows[part] = lines[k](rows[part])
    weight, bias = torch.stack([line.weight for line in lines]), torch.stack([line.bias for line in lines])
    return scores, safe_scores, weight.mean(0), bias.mean()


def chunked(x: Tensor) -> tuple[Tensor, ...]:
    """The rows of x, CHUNK at a time."""
    return torch.split(x, CHUNK)


def thin(chosen: Tensor, most: int | None = None) -> Tensor:
    """At most ``most`` of these positions, else MOST, evenly spaced."""
    most = MOST if most is None else most
    if len(chosen) <= most:
        return chosen
    return chosen[torch.linspace(0, len(chosen) - 1, most).long()]


def moments(*sets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) over the rows of all sets (N_i, D), float64, a chunk at a time."""
    chunks = [chunk for rows in sets for chunk in chunked(rows)]
    n = sum(len(chunk) for chunk in chunks)
    mean = sum(chunk.double().sum(0) for chunk in chunks) / n
    square = sum((chunk.double() - mean).square().sum(0) for chunk in chunks) / n
    return torch.as_tensor(mean), torch.as_tensor(square).sqrt().clamp(min=1e-6)


def logistic_regression(good: Tensor, bad: Tensor, strength: float = 0.01) -> Line:
    """Weight (D,) and bias () that separate ``good`` (G, D) from ``bad`` (B, D), both classes counting alike.

    Minimises |weight|^2 / 2 + strength * sum_i c_i log(1 + exp(-y_i (x_i weight + bias))), c_i balancing the classes,
    by L-BFGS: convex, so the answer does not depend on where it starts.
    """
    x = torch.cat([good, bad]).double()
    x = torch.cat([x, x.new_ones(len(x), 1)], 1)  # the last weight is the bias
    y = torch.cat([torch.ones(len(good)), -torch.ones(len(bad))]).double()
    balance = torch.where(y > 0, len(x) / (2 * len(good)), len(x) / (2 * len(bad)))
    parameters = x.new_zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def closure() -> Tensor:
        """The loss; its gradient by hand, which takes two thirds of the time of autograd's."""
        margin = y * (x @ parameters)
        penalised = parameters.clone()
        penalised[-1] = 0
        fit = (balance * torch.nn.functional.softplus(-margin)).sum()
        parameters.grad = penalised - strength * (x.T @ (balance * y * torch.sigmoid(-margin)))
        return penalised.square().sum() / 2 + strength * fit

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Line(parameters[:-1].detach(), parameters[-1].detach())
