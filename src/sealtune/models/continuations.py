"""Logits of a language model along given continuations of prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sealtune.core.errors import UserError
from sealtune.models.causal_lm import CausalLM
from sealtune.models.losses import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = Sequence[int]


class Network:
    """A causal language model whose logits are computed at chosen positions only, if its family allows that."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.device
        try:
            self.causal_lm: CausalLM | None = CausalLM(model)
        except UserError:  # its logits are not head(body(tokens)): they are computed everywhere
            self.causal_lm = None

    @property
    def head(self) -> Head | None:
        """The output layer that makes logits of states; None if the states are logits."""
        return None if self.causal_lm is None else self.causal_lm.head

    def states(self, tokens: Tensor, **inputs: Tensor) -> Tensor:
        """What ``logits`` makes logits of, (B, T, ...), of token ids (B, T)."""
        if self.causal_lm is None:
            everywhere: Tensor = self.model(input_ids=tokens, use_cache=False, **inputs).logits
            return everywhere
        hidden: Tensor = self.causal_lm.body(input_ids=tokens, use_cache=False, **inputs).last_hidden_state
        return hidden

    def logits(self, states: Tensor) -> Tensor:
        """Logits (R, V) in float32 of states (R, ...)."""
        if (head := self.head) is None:
            return states.float()
        return head.logits(states.to(head.weight.dtype))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; the mode of each module is restored afterwards.

    On a 4-bit base only dropout is switched off: in evaluation mode, bitsandbytes packs the weights on a CPU into a
    form that passes no gradient.
    """
    four_bit = getattr(model, "is_loaded_in_4bit", False)
    switched = [m for m in model.modules() if m.training and (isinstance(m, nn.Dropout) or not four_bit)]
    for module in switched:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in switched:
            module.training = True


def continuation_logits(
    network: Network, rows: Sequence[tuple[Tokens, Tokens]], batch_size: int
) -> Iterator[tuple[int, Tensor]]:
    """The logits that predict each token of a continuation, given its prompt and the tokens before it.

    Rows are padded on the right: in a causal model no token attends to what comes after it.

    Args:
        network: The model.
        rows: Prompts, each with at least one token, and their continuations.
        batch_size: Rows per forward pass.

    Yields:
        The position of a row, longest first, and its logits (tokens of the continuation, V), float32.
    """
    order = sorted(range(len(rows)), key=lambda i: -sum(map(len, rows[i])))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        fed = [[*rows[i][0], *rows[i][1][:-1]] for i in chosen]  # nothing is predicted after the last token
        states = network.states(pad_right(fed).to(network.device))
        for row, i in zip(states, chosen, strict=True):
            first = len(rows[i][0]) - 1
            yield i, network.logits(row[first : first + len(rows[i][1])])


def continuation_log_probs(network: Network, rows: Sequence[tuple[Tokens, Tokens]], batch_size: int) -> Tensor:
    """log p(continuation | prompt) of each row, (R,), in nats, float32 on the CPU."""
    found = torch.zeros(len(rows))
    for i, logits in continuation_logits(network, rows, batch_size):
        targets = torch.tensor(rows[i][1], device=logits.device)
        found[i] = logits.log_softmax(1).gather(1, targets[:, None]).sum().cpu()
    return found


def pad_right(rows: Sequence[Tokens]) -> Tensor:
    """Token ids (B, T), int64, padded with 0 on the right."""
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return tokens
