"""Response loss per row, computed from hidden states in chunks: no (tokens x vocabulary) tensor ever exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 2**24
"""Maximum number of logits in memory at once: 64 MiB in float32, regardless of the batch size."""


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer of a language model: logits = softcap(scale * (W h + b)).

    Attributes:
        weight: W, (V, D).
        bias: b, (V,), or None.
        scale: Factor of the logits in Cohere and Granite models.
        softcap: Bound of the logits in Gemma 2 models, softcap(x) = c tanh(x / c); None for no bound.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (R, V) in float32 of hidden states (R, D)."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    @property
    def is_trained(self) -> bool:
        """Whether the output layer itself needs gradients (full fine-tuning)."""
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)


def row_losses(hidden: Tensor, head: Head, tokens: Tensor, mask: Tensor) -> Tensor:
    """l_i(theta): the mean negative log-likelihood of the response tokens of each row.

    Args:
        hidden: Last hidden states, (B, T, D).
        head: The output layer.
        tokens: Token ids, (B, T).
        mask: Loss mask, (B, T): true at response tokens. Position t - 1 predicts token t.

    Returns:
        Losses (B,) in nats per response token, float32. A row without response tokens has loss 0.

    Source: Shen, Chen, Das, Chen (ICLR 2025), arXiv 2410.07471, section 3: the loss l(theta; z) of one row z.
    """
    mask = mask[:, 1:]
    nll = token_losses(hidden[:, :-1][mask], head, tokens[:, 1:][mask])
    return row_means(nll, mask)


def row_means(values: Tensor, mask: Tensor) -> Tensor:
    """Means (B,) of values (R,), one per token where the mask (B, T) is true, in its order; 0 for a row without any."""
    sums = values.new_zeros(len(mask)).index_add(0, mask.nonzero()[:, 0], values)
    return sums / mask.sum(1).clamp(min=1)


def token_losses(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """Negative log-likelihoods (R,) in nats of ``targets`` (R,), given hidden states (R, D)."""
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])
    chunks = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    if not torch.is_grad_enabled() or not (hidden.requires_grad or head.is_trained):
        losses = [_cross_entropy(h, head, t) for h, t in chunks]
    elif head.is_trained:
        losses = [checkpoint(_cross_entropy, h, head, t, use_reentrant=False) for h, t in chunks]
    else:
        losses = [_FrozenHeadLoss.apply(h, head, t) for h, t in chunks]  # type: ignore[no-untyped-call]
    return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)


def _cross_entropy(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(head.logits(hidden), targets, reduction="none")


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropy that computes its gradient in the forward pass: d nll / d hidden is linear in the upstream scalar.

    The logits are computed once and freed. Only the gradient (R, D) is kept, as large as the hidden states.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        logits = head.logits(hidden)
        log_normalizer = logits.logsumexp(1)
        target_logits = logits.gather(1, targets[:, None])[:, 0]
        softcap_slope = None if head.softcap is None else 1 - (logits / head.softcap) ** 2
        gradient = logits.sub_(log_normalizer[:, None]).exp_()  # softmax, in place
        gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
        if softcap_slope is not None:
            gradient *= softcap_slope
        ctx.save_for_backward((gradient.to(hidden.dtype) @ head.weight).mul_(head.scale))
        return log_normalizer - target_logits

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[0][:, None]).to(gradient.dtype), None, None
