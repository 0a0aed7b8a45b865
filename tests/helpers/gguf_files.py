"""GGUF files of a two-layer Llama, as llama.cpp writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from helpers.tiny import VOCABULARY

SETTINGS: dict[str, Any] = {
    "block_count": 2,
    "context_length": 512,
    "embedding_length": 32,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.dimension_count": 8,
    "vocab_size": VOCABULARY,
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def llama_tensors(model: Any) -> dict[str, np.ndarray]:
    """The tensors of a Llama with tied embeddings, by their names in GGUF."""
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    found = {"token_embd.weight": model.model.embed_tokens.weight, "output_norm.weight": model.model.norm.weight}
    for i, layer in enumerate(model.model.layers):
        for own, name in NAMES.items():
            weight = layer.get_submodule(own).weight
            if count := heads.get(own.rpartition(".")[2]):
                weight = weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
            found[f"blk.{i}.{name}.weight"] = weight
    return {name: weight.detach().numpy().copy() for name, weight in found.items()}


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray],
    part: int = 0,
    parts: int = 1,
    total: int = 20,
    settings: dict[str, Any] | None = None,
) -> Path:
    """A GGUF file, or one of its parts; only the first has settings. ``settings`` changes some; None omits one."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    if part == 0:
        for name, value in (SETTINGS | (settings or {})).items():
            _add(writer, f"llama.{name}", value)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([chr(0x100 + i) for i in range(VOCABULARY - 3)] + ["a", "b", "ab"])
        writer.add_token_types([1] * VOCABULARY)
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(0)
        writer.add_bos_token_id(0)
    if parts > 1:
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", total)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, name: str, value: Any) -> None:
    if value is None:
        return
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds[type(value)](name, value)
