"""A two-layer model and rows of random tokens, created in milliseconds."""

from __future__ import annotations

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from sealtune.data.encoded import Encoded

VOCABULARY = 300


def tiny_model(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """A randomly initialised Llama model; ``changes`` are fields of its config."""
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    model.config.use_cache = False
    return model.eval()


def with_random_lora(model: PreTrainedModel, seed: int, **settings: object) -> PeftModel:
    """``model`` with a LoRA of random weights, in evaluation mode; ``settings`` are those of its config."""
    defaults = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(model, LoraConfig(**(defaults | settings)))
    torch.manual_seed(seed)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return adapted.eval()


def random_rows(n: int, seed: int = 0, prefix: str = "row") -> Encoded:
    """``n`` rows of a random prompt and response."""
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(n):
        prompt, response = random.integers(2, 8), random.integers(3, 12)
        tokens = random.integers(3, VOCABULARY, prompt + response).astype(np.int32)
        parts.append((tokens, np.arange(prompt + response) >= prompt))
    return Encoded.join([f"{prefix}-{i:03d}" for i in range(n)], ["made"] * n, parts)
