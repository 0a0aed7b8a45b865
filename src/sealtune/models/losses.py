"""Per-row response loss from hidden states, chunked so that no (tokens x vocabulary) tensor ever exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 2**24
"""Logits alive at once: 64 MiB in float32, whatever the batch."""


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer of a language model: logits = softcap(scale * (W h + b)).

    ``weight`` (V, D); ``bias`` (V,) or None. ``scale`` and ``softcap`` are what Cohere, Granite and Gemma 2 add.
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
        """Whether gradients must reach the output layer itself (full fine-tuning)."""
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)


def row_losses(hidden: Tensor, head: Head, tokens: Tensor, mask: Tensor) -> Tensor:
    """l_i: mean negative log-likelihood of each row's response tokens.

    Args:
        hidden: last hidden states, (B, T, D).
        head: the output layer.
        tokens: token ids, (B, T).
        mask: (B, T), true where a token is to be learned. Position t - 1 predicts token t.

    Returns:
        Losses (B,) in nats per response token, float32. A row without response tokens has loss 0.

    Source: DESIGN section 2, l_i(theta).
    """
    learned = mask[:, 1:]
    nll = token_losses(hidden[:, :-1][learned], head, tokens[:, 1:][learned])
    row_of_token = learned.nonzero()[:, 0]
    totals = nll.new_zeros(len(tokens)).index_add(0, row_of_token, nll)
    return totals / learned.sum(1).clamp(min=1)


def token_losses(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """Negative log-likelihood (R,) in nats of ``targets`` (R,) under hidden states (R, D)."""
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])
    pieces = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    if not torch.is_grad_enabled() or not (hidden.requires_grad or head.is_trained):
        losses = [_cross_entropy(h, head, t) for h, t in pieces]
    elif head.is_trained:
        losses = [checkpoint(_cross_entropy, h, head, t, use_reentrant=False) for h, t in pieces]
    else:
        losses = [_FrozenHeadLoss.apply(h, head, t) for h, t in pieces]  # type: ignore[no-untyped-call]
    return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)


def _cross_entropy(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(head.logits(hidden), targets, reduction="none")


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropy whose backward is ready after the forward: d nll / d hidden is linear in the upstream scalar.

    The logits are met once and thrown away; what is kept is (R, D), the size of the hidden states themselves.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        logits = head.logits(hidden)
        log_total = logits.logsumexp(1)
        at_target = logits.gather(1, targets[:, None])[:, 0]
        slope = None if head.softcap is None else 1 - (logits / head.softcap) ** 2
        gradient = logits.sub_(log_total[:, None]).exp_()  # softmax, in place
        gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
        if slope is not None:
            gradient *= slope
        ctx.save_for_backward((gradient.to(hidden.dtype) @ head.weight).mul_(head.scale))
        return log_total - at_target

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[0][:, None]).to(gradient.dtype), None, None
