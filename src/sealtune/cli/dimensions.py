"""The sizes of a language model, from its config.json alone: no weight is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sealtune.core.config import Config
from sealtune.core.errors import UserError


class Shape(NamedTuple):
    """The sizes of a decoder; ``fused``: GPT-NeoX's layers, not Llama's."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int
    tied: bool = False
    fused: bool = False

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each matrix of a layer."""
        d, q, kv = self.hidden, self.heads * self.head_size, self.kv_heads * self.head_size
        if self.fused:
            block = {"query_key_value": (d, q + 2 * kv), "dense": (q, d)}
            return block | {"dense_h_to_4h": (d, self.inner), "dense_4h_to_h": (self.inner, d)}
        attention = {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (q, d)}
        return attention | {"gate_proj": (d, self.inner), "up_proj": (d, self.inner), "down_proj": (self.inner, d)}

    @property
    def linear(self) -> int:
        """Weights of all layers; norms and biases, some 0.01 %, are left out."""
        return self.layers * sum(rows * columns for rows, columns in self.modules.values())

    @property
    def embedding(self) -> int:
        """Weights of the input and output embeddings."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.linear + self.embedding


KNOWN = {
    "meta-llama/Meta-Llama-3-8B-Instruct": Shape(32, 4096, 14336, 32, 8, 128_256, 128),
    "meta-llama/Meta-Llama-3-70B-Instruct": Shape(80, 8192, 28_672, 64, 8, 128_256, 128),
    "meta-llama/Llama-3.2-1B-Instruct": Shape(16, 2048, 8192, 32, 8, 128_256, 64, tied=True),
    "ibm/merlinite-7b": Shape(32, 4096, 14336, 32, 8, 32_008, 128),
    "EleutherAI/pythia-2.8b": Shape(32, 2560, 10_240, 32, 32, 50_304, 80, fused=True),
    "smollm2-135m-instruct": Shape(30, 576, 1536, 9, 3, 49_152, 64, tied=True),
}


def read_shape(config: Config) -> Shape:
    """The model's sizes: a folder's, or those of a hub id that is known or in the hub's cache. Raises UserError."""
    name = config.model_name_or_path
    path = Path(name) / "config.json"
    if not path.is_file():
        if name in KNOWN:
            return KNOWN[name]
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, "config.json", revision=config.model_revision)
        except HFValidationError:
            cached = None
        if not isinstance(cached, str):
            raise UserError(
                f"env: the sizes of {name} are not known here; `hf download {name} config.json` fetches them"
            )
        path = Path(cached)
    try:
        return _shape_of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"env: {path} does not tell the sizes of a decoder ({error!r})") from None


def _shape_of(told: Mapping[str, Any]) -> Shape:
    told = told.get("text_config") or told
    heads = int(told["num_attention_heads"])
    return Shape(
        layers=int(told["num_hidden_layers"]),
        hidden=int(told["hidden_size"]),
        inner=int(told["intermediate_size"]),
        heads=heads,
        kv_heads=int(told.get("num_key_value_heads") or heads),
        vocabulary=int(told["vocab_size"]),
        head_size=int(told.get("head_dim") or told["hidden_size"] // heads),
        tied=bool(told.get("tie_word_embeddings", False)),
        fused=told.get("model_type") == "gpt_neox",
    )
