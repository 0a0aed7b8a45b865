"""A model of two layers and rows of random tokens, so small that other costs show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from sealtune.data.encoded import Encoded

WORDS = ("red", "green", "blue", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "make", "find", "why", "how")
"""What the tokenizer of ``save_model`` knows."""
TOKENS = 16
"""Tokens per row of ``mapped_rows``."""


def two_layer_model(vocab_size: int) -> LlamaForCausalLM:
    """Two layers with random weights, drawn by torch's seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": vocab_size}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()


def save_model(folder: Path) -> None:
    """A model of two layers with random weights, and a tokenizer that knows WORDS."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=alphabet, special_tokens=["<|end|>"]
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    torch.manual_seed(0)
    two_layer_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def mapped_rows(path: Path, n: int) -> Encoded:
    """n rows of random tokens in memory-mapped files; the second half of each row is its response."""
    import numpy as np

    from sealtune.data.encoded import Encoded

    random = np.random.default_rng(n)
    shape, block = (n * TOKENS,), 10**5 * TOKENS
    tokens = np.memmap(f"{path}.tokens", np.int32, "w+", shape=shape)
    mask = np.memmap(f"{path}.mask", np.bool_, "w+", shape=shape)
    for start in range(0, n * TOKENS, block):
        stop = min(start + block, n * TOKENS)
        tokens[start:stop] = random.integers(3, 300, stop - start)
        mask[start:stop] = np.arange(start, stop) % TOKENS >= TOKENS // 2
    bounds = np.memmap(f"{path}.bounds", np.int64, "w+", shape=(n + 1,))
    bounds[:] = np.arange(n + 1) * TOKENS
    for array in (tokens, mask, bounds):
        array.flush()
    return Encoded(_NumberedIds(n), _NumberedIds(n), tokens, mask, bounds)


class _NumberedIds(Sequence[str]):
    """The ids of n rows, made on access, so that they take no memory."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i):
        return f"row-{range(self.n)[i]}"
