"""Two-layer models of families that are not built like Llama."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

HF = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
FAMILIES: dict[str, dict[str, object]] = {
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gptj": GPT | {"rotary_dim": 8},
    "codegen": GPT | {"rotary_dim": 8},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
    "gpt_neox": HF | {"intermediate_size": 64},
    "opt": HF | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi": HF | {"intermediate_size": 64},
    "phi3": HF | {"intermediate_size": 64},
    "starcoder2": HF | {"intermediate_size": 64, "num_key_value_heads": 2},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
}
"""The sizes of a tiny model, by ``model_type``."""


def family_model(family: str, vocabulary: int = 300, **changes: object) -> PreTrainedModel:
    """A randomly initialised model of this family; ``changes`` are fields of its config."""
    torch.manual_seed(0)
    tokens = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **(tokens | FAMILIES[family] | changes))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
