"""Counts the tokens that pass through language models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def count_tokens() -> Iterator[dict[str, int]]:
    """Tokens, without padding, that pass ``forward`` and ``backward`` through a language model within the block."""
    from sealtune.models.causal_lm import CausalLM

    tokens = {"forward": 0, "backward": 0}
    original = CausalLM.__init__

    def count(body, args, kwargs, output):
        real = int((kwargs["input_ids"] != 0).sum())  # padding is token 0, which hardly any row contains
        tokens["forward"] += real
        tokens["backward"] += real * output.last_hidden_state.requires_grad

    def counting(self, model):
        original(self, model)
        self.body.register_forward_hook(count, with_kwargs=True)

    CausalLM.__init__ = counting
    try:
        yield tokens
    finally:
        CausalLM.__init__ = original
