"""What a model predicts at some tokens, and how far two models are apart there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sealtune.models import losses
from sealtune.models.losses import Head

TOP = 64
"""Most likely tokens of a model that are remembered at each position; the rest counts as one more token."""
IMPOSSIBLE = -50.0
"""Log-probability of a token that is left out of a sum; it is finite, so that the sum over no token is, too."""


class Predictions(NamedTuple):
    """What a model predicts at R response tokens.

    Attributes:
        values: Hidden states (R, D) if ``head`` is given, otherwise logits (R, V).
        head: The output layer.
    """

    values: Tensor
    head: Head | None = None

    @property
    def vocabulary(self) -> int:
        """V."""
        return (self.values if self.head is None else self.head.weight.T).shape[1]

    def losses(self, targets: Tensor) -> Tensor:
        """Negative log-likelihoods (R,) of the target tokens (R,)."""
        if self.head is not None:
            return losses.token_losses(self.values, self.head, targets)
        return torch.nn.functional.cross_entropy(self.values.float(), targets, reduction="none")

    def at(self, rows: Tensor) -> Predictions:
        """The predictions at some of the tokens."""
        return Predictions(self.values[rows], self.head)

    def log_probs(self) -> Tensor:
        """Log-probabilities (R, V), float32."""
        logits = self.values.float() if self.head is None else self.head.logits(self.values)
        return logits.log_softmax(1)


class TopLogProbs(NamedTuple):
    """What a model predicts at R positions, in short.

    Attributes:
        tokens: Its K most likely tokens, ids (R, K).
        values: Their log-probabilities (R, K).
        other: Log of the probability (R,) of all other tokens together.
    """

    tokens: Tensor
    values: Tensor
    other: Tensor

    def to(self, device: torch.device | str) -> TopLogProbs:
        """The same on another device."""
        return TopLogProbs(*(part.to(device) for part in self))

    @classmethod
    def join(cls, parts: Sequence[TopLogProbs]) -> TopLogProbs:
        """The positions of all parts, in order."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))


def top_log_probs(predictions: Predictions) -> TopLogProbs:
    """The ``TOP`` most likely tokens at each position."""
    log_probs = predictions.log_probs()
    found = log_probs.topk(min(TOP, log_probs.shape[1]), dim=1)
    return TopLogProbs(found.indices, found.values, _other(log_probs, found.indices))


def divergence(start: TopLogProbs, predictions: Predictions) -> Tensor:
    """KL(start || model) at R positions, (R,), in nats, over the start model's top tokens and all others taken as one.

    It is a lower bound of the divergence over all tokens, and 0 where the two agree on these probabilities. Like the
    losses, it is computed in chunks: no (R, V) tensor of all positions ever exists.
    """
    size = max(1, losses.CHUNK_LOGITS // predictions.vocabulary)
    tokens, values, other = (torch.split(part, size) for part in start)
    arguments = zip(tokens, values, other, torch.split(predictions.values, size), strict=True)
    found = []
    for *top, chunk in arguments:
        known, now = TopLogProbs(*top), Predictions(chunk, predictions.head)
        if torch.is_grad_enabled():
            found.append(checkpoint(_divergence, known, now, use_reentrant=False))
        else:
            found.append(_divergence(known, now))
    return torch.cat(found)


def _divergence(start: TopLogProbs, predictions: Predictions) -> Tensor:
    log_probs = predictions.log_probs()
    found, other = log_probs.gather(1, start.tokens), _other(log_probs, start.tokens)
    return (start.values.exp() * (start.values - found)).sum(1) + start.other.exp() * (start.other - other)


def _other(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Log of the probability (R,) of all but these tokens (R, K), from log-probabilities (R, V).

    It is summed over the other tokens: one minus the sum over these would round to nothing where a model is certain.
    """
    return log_probs.scatter(1, tokens, IMPOSSIBLE).logsumexp(1)
