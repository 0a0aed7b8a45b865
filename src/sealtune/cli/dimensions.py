"""The dimensions of a language model, from its config.json; no weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sealtune.core.config import Config
from sealtune.core.errors import UserError


class ModelDimensions(NamedTuple):
    """The dimensions of a decoder; ``fused`` for GPT-NeoX's layers, otherwise Llama's."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int
    tied: bool = False
    fused: bool = False

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each weight matrix of a layer."""
        d, q, kv = self.hidden, self.heads * self.head_size, self.kv_heads * self.head_size
        if self.fused:
            attention = {"query_key_value": (d, q + 2 * kv), "dense": (q, d)}
            return attention | {"dense_h_to_4h": (d, self.intermediate), "dense_4h_to_h": (self.intermediate, d)}
        attention = {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (q, d)}
        mlp = {"gate_proj": (d, self.intermediate), "up_proj": (d, self.intermediate)}
        return attention | mlp | {"down_proj": (self.intermediate, d)}

    @property
    def linear(self) -> int:
        """Weights of all layers, without norms and biases (about 0.01 %)."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.modules.values())

    @property
    def embedding(self) -> int:
        """Weights of the input and output embeddings."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.linear + self.embedding


KNOWN = {
    "meta-llama/Meta-Llama-3-8B-Instruct": ModelDimensions(32, 4096, 14336, 32, 8, 128_256, 128),
    "meta-llama/Meta-Llama-3-70B-Instruct": ModelDimensions(80, 8192, 28_672, 64, 8, 128_256, 128),
    "meta-llama/Llama-3.2-1B-Instruct": ModelDimensions(16, 2048, 8192, 32, 8, 128_256, 64, tied=True),
    "ibm/merlinite-7b": ModelDimensions(32, 4096, 14336, 32, 8, 32_008, 128),
    "EleutherAI/pythia-2.8b": ModelDimensions(32, 2560, 10_240, 32, 32, 50_304, 80, fused=True),
    "smollm2-135m-instruct": ModelDimensions(30, 576, 1536, 9, 3, 49_152, 64, tied=True),
}
"""Models that can be estimated without their config.json."""


def read_dimensions(config: Config) -> ModelDimensions:
    """The model's dimensions, from a folder, the table above, or the hub's cache. Raises UserError if unknown."""
    name = config.model_name_or_path
    path = Path(name) / "config.json"
    if not path.is_file():
        if name in KNOWN:
            return KNOWN[name]
        path = _cached_config(name, config.model_revision)
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"env: {path} does not state the dimensions of a decoder ({error!r})") from None


def _cached_config(name: str, revision: str | None) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        cached = None
    if not isinstance(cached, str):
        raise UserError(f"env: the dimensions of {name} are unknown; fetch them with `hf download {name} config.json`")
    return Path(cached)


def _parse(values: Mapping[str, Any]) -> ModelDimensions:
    values = values.get("text_config") or values
    heads = int(values["num_attention_heads"])
    return ModelDimensions(
        layers=int(values["num_hidden_layers"]),
        hidden=int(values["hidden_size"]),
        intermediate=int(values["intermediate_size"]),
        heads=heads,
        kv_heads=int(values.get("num_key_value_heads") or heads),
        vocabulary=int(values["vocab_size"]),
        head_size=int(values.get("head_dim") or values["hidden_size"] // heads),
        tied=bool(values.get("tie_word_embeddings", False)),
        fused=values.get("model_type") == "gpt_neox",
    )
