"""What a model predicts on safe rows, and how likely it is to refuse: all that the guard asks of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sealtune.models.causal_lm import CausalLM
from sealtune.models.openings import encode_openings, opening_log_probs, refusal_log_odds
from sealtune.tuning.guard_loss import Predictions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Predictor:
    """A model as the guard sees it.

    Args:
        model: The model, on its device.
        causal_lm: Its body and head, for logits at response tokens only; None if its family cannot be split.
        tokenizer: Its tokenizer.
        precision: The context to compute in.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        causal_lm: CausalLM | None,
        tokenizer: PreTrainedTokenizerBase,
        precision: Callable[[], Any] = contextlib.nullcontext,
    ) -> None:
        self.model, self.causal_lm, self.tokenizer = model, causal_lm, tokenizer
        self.precision = precision
        self.openings = encode_openings(tokenizer)

    def predict(self, tokens: Tensor, mask: Tensor) -> Predictions:
        """Predictions at the tokens where the mask (B, T) is true, of token ids (B, T) padded on the right."""
        device = self.model.device
        tokens, mask = tokens.to(device), mask[:, 1:].to(device)
        with self.precision():
            if self.causal_lm is not None:
                return Predictions(self.causal_lm.hidden_states(tokens)[:, :-1][mask], self.causal_lm.head)
            return Predictions(self.model(input_ids=tokens, use_cache=False).logits[:, :-1][mask])

    def log_odds(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Log-odds (P,) that the model refuses prompts, given as token ids."""
        openings = self.openings.refusals + self.openings.compliances
        with self.precision():
            return refusal_log_odds(opening_log_probs(self.model, prompts, openings), self.openings)
