"""How far a model is from what the safe set asks for, row by row.

    teach   S_i = l_i(theta) - l_i(theta_0)          the safe answer is learned
    keep    S_i = KL(pi_0 || pi_theta), mean over the first response tokens          the start model is kept

Both are 0 at the start model theta_0, in nats per response token.

Source: teach is the upper-level loss of Shen, Chen, Das, Chen (ICLR 2025), arXiv 2410.07471, as in "safety-tuned
LLaMAs" (Bianchi et al., ICLR 2024, arXiv 2309.07875); keep is dark experience replay with the start model as teacher
(Buzzega et al., NeurIPS 2020, arXiv 2004.07211).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sealtune.models.losses import Head, token_losses

KEPT_TOKENS = 32
"""Response tokens of a row whose distribution is kept: alignment that is lost is lost in the first ones."""
TOP = 64
"""Most likely tokens of the start model that are remembered at each position; the rest counts as one more token."""


class Predictions(NamedTuple):
    """What a model predicts at R response tokens.

    Attributes:
        values: Hidden states (R, D) if ``head`` is given, otherwise logits (R, V).
        head: The output layer.
    """

    values: Tensor
    head: Head | None = None

    def losses(self, targets: Tensor) -> Tensor:
        """Negative log-likelihoods (R,) of the target tokens (R,)."""
        if self.head is not None:
            return token_losses(self.values, self.head, targets)
        return torch.nn.functional.cross_entropy(self.values.float(), targets, reduction="none")

    def at(self, rows: Tensor) -> Predictions:
        """The predictions at some of the tokens."""
        return Predictions(self.values[rows], self.head)

    def log_probs(self) -> Tensor:
        """Log-probabilities (R, V), float32."""
        logits = self.values.float() if self.head is None else self.head.logits(self.values)
        return logits.log_softmax(1)


Forward = Callable[[Tensor, Tensor], Predictions]
"""Predictions at the tokens where the mask (B, T) is true, of token ids (B, T)."""


class TopLogProbs(NamedTuple):
    """The start model's most likely tokens at R positions: token ids (R, K) and their log-probabilities (R, K)."""

    tokens: Tensor
    values: Tensor


def top_log_probs(predictions: Predictions) -> TopLogProbs:
    """The ``TOP`` most likely tokens at each position."""
    log_probs = predictions.log_probs()
    found = log_probs.topk(min(TOP, log_probs.shape[1]), dim=1)
    return TopLogProbs(found.indices, found.values)


def divergence(start: TopLogProbs, predictions: Predictions) -> Tensor:
    """KL(pi_0 || pi_theta) at R positions, (R,), over the start model's top tokens and all others taken as one.

    It is a lower bound of the divergence over all tokens, and 0 exactly where the two agree on them.
    """
    found = predictions.log_probs().gather(1, start.tokens)
    known = (start.values.exp() * (start.values - found)).sum(1)
    return known + _other(start.values).exp() * (_other(start.values) - _other(found))


def _other(log_probs: Tensor) -> Tensor:
    """Log of the probability (R,) that the tokens with these log-probabilities (R, K) leave to all others."""
    rest = -torch.expm1(log_probs.logsumexp(1).clamp(max=-1e-7))
    return rest.clamp(min=1e-9).log()


def row_means(values: Tensor, mask: Tensor) -> Tensor:
    """Means (B,) of values (R,), one per token where the mask (B, T) is true, in its order; 0 for a row without any."""
    sums = values.new_zeros(len(mask)).index_add(0, mask.nonzero()[:, 0], values)
    return sums / mask.sum(1).clamp(min=1)
