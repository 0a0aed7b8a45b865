"""The weight matrices of a decoder layer, by family, and the spellings of its sizes in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Layout = Mapping[str, tuple[str, str]]
"""(inputs, outputs) of each matrix of a layer: ``d`` hidden; ``q``, ``kv`` all heads; ``f`` intermediate."""

LLAMA: Layout = {
    "q_proj": ("d", "q"),
    "k_proj": ("d", "kv"),
    "v_proj": ("d", "kv"),
    "o_proj": ("q", "d"),
    "gate_proj": ("d", "f"),
    "up_proj": ("d", "f"),
    "down_proj": ("f", "d"),
}
NEOX: Layout = {
    "query_key_value": ("d", "qkv"),
    "dense": ("q", "d"),
    "dense_h_to_4h": ("d", "f"),
    "dense_4h_to_h": ("f", "d"),
}
GPT2: Layout = {
    "attn.c_attn": ("d", "qkv"),
    "attn.c_proj": ("q", "d"),
    "mlp.c_fc": ("d", "f"),
    "mlp.c_proj": ("f", "d"),
}


def _separate(output: str, up: str, down: str) -> Layout:
    """Three projections of their own, and a feed-forward network of two matrices."""
    attention = {name: LLAMA[name] for name in ("q_proj", "k_proj", "v_proj")}
    return {**attention, output: ("q", "d"), up: ("d", "f"), down: ("f", "d")}


LAYOUTS: Mapping[str, Layout] = {
    "gpt_neox": NEOX,
    "bloom": NEOX,
    "falcon": NEOX,
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gptj": _separate("out_proj", "fc_in", "fc_out"),
    "gpt_neo": _separate("out_proj", "c_fc", "c_proj"),
    "opt": _separate("out_proj", "fc1", "fc2"),
    "phi": _separate("dense", "fc1", "fc2"),
    "starcoder2": _separate("o_proj", "c_fc", "c_proj"),
    "codegen": {"qkv_proj": ("d", "qkv"), "out_proj": ("q", "d"), "fc_in": ("d", "f"), "fc_out": ("f", "d")},
    "mpt": {"Wqkv": ("d", "qkv"), "out_proj": ("q", "d"), "up_proj": ("d", "f"), "down_proj": ("f", "d")},
    "phi3": {"qkv_proj": ("d", "qkv"), "o_proj": ("q", "d"), "gate_up_proj": ("d", "ff"), "down_proj": ("f", "d")},
}
"""The layout of each family that is not built like Llama, by ``model_type``."""

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "intermediate": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
}
TIED = frozenset({"gpt2", "gpt_bigcode", "gpt_neo", "bloom", "falcon", "mpt", "opt"})
"""Families whose embeddings are tied unless config.json says otherwise."""


def read_size(values: Mapping[str, Any], name: str) -> int | None:
    """A size in any of its spellings; None if it is not stated."""
    return next((int(values[key]) for key in SPELLINGS[name] if values.get(key)), None)


def read_kv_heads(values: Mapping[str, Any], heads: int) -> int:
    """The number of key and value heads: one if all heads share them, and by default as many as heads."""
    if values.get("model_type") == "falcon" and not values.get("new_decoder_architecture"):
        return 1 if values.get("multi_query", True) else heads
    if values.get("model_type") == "gpt_bigcode":
        return 1 if values.get("multi_query", True) else heads
    return read_size(values, "kv_heads") or heads
