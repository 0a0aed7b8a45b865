"""What a model predicts on safe rows, and how likely it is to refuse: all that the guard asks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from sealtune.data.encode import encode_prompt
from sealtune.models.continuations import Network
from sealtune.models.lengths import find_limit
from sealtune.models.openings import REFUSALS, encode_openings, refusal_log_probs
from sealtune.models.predictions import Predictions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Predictor:
    """A model as the guard sees it. It is made while the model is measured, because it tries a forward pass.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
        openings: The words with which answers refuse.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, openings: Sequence[str] = REFUSALS
    ) -> None:
        self.model = model
        self.openings = encode_openings(tokenizer, openings)
        self.start_of_answers = start_of_answers(tokenizer)
        limit = find_limit(model.config, tokenizer)
        taken = max(map(len, self.openings)) + len(self.start_of_answers)
        self.longest_prompt = max(limit.tokens - taken, 1) if limit else None
        self.network = Network(model)

    def predict(self, tokens: Tensor, mask: Tensor) -> Predictions:
        """Predictions at the tokens where the mask (B, T) is true, of token ids (B, T) padded on the right."""
        tokens, mask = tokens.to(self.model.device), mask[:, 1:].to(self.model.device)
        return Predictions(self.network.states(tokens)[:, :-1][mask], self.network.head)

    def refusal(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Probabilities (P,) that the model refuses prompts, given as token ids up to where their answer begins."""
        # A prompt that leaves no room for an answer loses its beginning: where the answer starts is marked at its end.
        kept = prompts if self.longest_prompt is None else [prompt[-self.longest_prompt :] for prompt in prompts]
        opened = [[*prompt, *self.start_of_answers] for prompt in kept]
        return refusal_log_probs(self.model, opened, self.openings).exp()


def start_of_answers(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the template itself writes at the start of every answer, such as an empty block of thinking."""
    bare, opened = encode_prompt(tokenizer, "Hello."), encode_prompt(tokenizer, "Hello.", opened=True)
    return opened[len(bare) :] if opened[: len(bare)] == bare else []
