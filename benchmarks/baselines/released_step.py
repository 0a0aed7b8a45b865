"""A ranking step with the semantics of the code that the authors of SEAL released, rewritten to be timed.

Batches are drawn at random and padded to their longest row; logits are computed at all positions, in float32; the
graphs of the safe rows and of the candidates are in memory at once; softmax and Adam of the selector process all N
logits in every step.
"""

from __future__ import annotations

import torch
from torch import nn

from sealtune.core.config import RankConfig
from sealtune.data.batches import Batch, Padded
from sealtune.data.encoded import Encoded
from sealtune.models.adapters import lora_config


class ReleasedStep:
    """theta as one adapter, omega as a dense parameter, and the step that updates both."""

    def __init__(self, model, candidates: Encoded, safe: Encoded, settings: RankConfig, seed: int) -> None:
        from peft import get_peft_model

        torch.manual_seed(seed)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        self.model = get_peft_model(model, lora_config(settings, model))
        self.omega = nn.Parameter(torch.full((len(candidates),), 0.1, device=model.device))
        theta = [p for p in self.model.parameters() if p.requires_grad]
        self.theta_optimizer = torch.optim.AdamW(theta, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.omega_optimizer = torch.optim.Adam([self.omega], lr=5e-3, betas=(0.9, 0.95))
        self.candidates, self.safe, self.settings = candidates, safe, settings

    def step(self, rows: torch.Tensor, safe_rows: torch.Tensor) -> int:
        """One step on these rows; returns the tokens that went through the model, without padding."""
        batch, safe = Batch(rows, self.candidates), Batch(safe_rows, self.safe)
        gamma = self.settings.gamma
        safe_losses, losses = self.losses(safe), self.losses(batch)
        weights = len(self.omega) * torch.softmax(self.omega, 0)[rows]
        ((1 - gamma) * safe_losses.mean() + gamma * (weights * losses).mean()).backward()
        self.omega.grad = None  # omega descends on the raw loss, not scaled by gamma
        nn.utils.clip_grad_norm_(self.theta_optimizer.param_groups[0]["params"], self.settings.max_grad_norm)
        self.theta_optimizer.step()
        self.theta_optimizer.zero_grad()
        weights = len(self.omega) * torch.softmax(self.omega, 0)[rows]
        (weights * losses.detach()).mean().backward()
        self.omega_optimizer.step()
        self.omega_optimizer.zero_grad()
        return batch.token_count + safe.token_count

    def losses(self, batch: Batch) -> torch.Tensor:
        """Mean loss per response token of each row, (B,), from logits at all positions."""
        (piece,) = batch.split(len(batch.rows))
        tokens, mask = piece.tokens.to(self.omega.device), piece.mask.to(self.omega.device)
        attention = self._attention_mask(batch, piece)
        logits = self.model(input_ids=tokens, attention_mask=attention, use_cache=False).logits.float()
        targets, responses = tokens[:, 1:], mask[:, 1:]
        nll = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none")
        nll = nll.view_as(targets)
        in_order = torch.empty(len(tokens), device=nll.device)
        in_order[piece.indices.to(nll.device)] = (nll * responses).sum(1) / responses.sum(1)
        return in_order

    def _attention_mask(self, batch: Batch, piece: Padded) -> torch.Tensor:
        """1 at tokens, 0 at padding, (B, T)."""
        lengths = torch.from_numpy(batch.encoded.lengths_of(batch.rows[piece.indices].numpy()))
        return (torch.arange(piece.tokens.shape[1]) < lengths[:, None]).long().to(self.omega.device)
