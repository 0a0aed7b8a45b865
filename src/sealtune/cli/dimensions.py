"""The dimensions of a language model, from its config.json; no weights are read."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sealtune.cli.layouts import LAYOUTS, LLAMA, SPELLINGS, TIED, read_kv_heads, read_size
from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.models.lengths import positions


class ModelDimensions(NamedTuple):
    """The dimensions of a decoder.

    Attributes:
        family: The ``model_type`` of its config.json, which names its layers.
        positions: The largest number of tokens; None without a limit.
        bits: Bits per weight of a layer, if the files hold quantised weights.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int
    tied: bool = False
    family: str = "llama"
    positions: int | None = None
    bits: int | None = None

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each weight matrix of a layer."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        sizes = {"d": self.hidden, "q": q, "kv": kv, "qkv": q + 2 * kv}
        sizes |= {"f": self.intermediate, "ff": 2 * self.intermediate}
        layout = LAYOUTS.get(self.family, LLAMA)
        return {name: (sizes[inputs], sizes[outputs]) for name, (inputs, outputs) in layout.items()}

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
    "EleutherAI/pythia-2.8b": ModelDimensions(32, 2560, 10_240, 32, 32, 50_304, 80, family="gpt_neox"),
    "smollm2-135m-instruct": ModelDimensions(30, 576, 1536, 9, 3, 49_152, 64, tied=True),
}
"""Models that can be estimated without their config.json."""


def read_dimensions(config: Config) -> ModelDimensions:
    """The model's dimensions, from a folder, the table above, or the hub's cache. Raises UserError if unknown."""
    from sealtune.models.adapter_chain import adapter_of, base_of

    if (adapter := adapter_of(config)) is not None:
        return read_dimensions(base_of(config, adapter))
    name = config.model_name_or_path
    if (gguf := _gguf_file(Path(name).expanduser())) is not None:
        return _read_gguf(gguf)
    path = Path(name).expanduser() / "config.json"
    if not path.is_file():
        if name in KNOWN:
            return KNOWN[name]
        path = _cached_config(name, config.model_revision)
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"env: {path} does not state the dimensions of a decoder ({error!r})") from None


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file that this path names: itself, or the one in a folder without a config.json."""
    from sealtune.models.gguf import find_gguf, is_gguf

    if path.is_file() and is_gguf(path):
        return path
    return find_gguf(path) if path.is_dir() and not (path / "config.json").is_file() else None


def _read_gguf(path: Path) -> ModelDimensions:
    """The dimensions of a GGUF model; its weights are loaded as floating-point numbers.

    Args:
        path: The file, or any of its parts.

    Raises:
        UserError: The file cannot be read, or the package gguf is not installed.
    """
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    from sealtune.models.gguf import find_parts

    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"env: {path}: reading GGUF needs the package gguf; pip install 'sealtune[gguf]'")
    try:
        stated = load_gguf_checkpoint(str(find_parts(path)[0]))["config"]  # the first part has the settings of all
        return _parse(stated | {"tie_word_embeddings": not _has_output_layer(path)})
    except UserError:
        raise
    except Exception as error:  # the reader raises whatever a damaged file leads to
        raise UserError(f"env: {path} does not state the dimensions of a decoder ({error!r})") from None


def _has_output_layer(path: Path) -> bool:
    """Whether any part of a GGUF model has an output layer apart from the embedding."""
    from gguf import GGUFReader

    from sealtune.models.gguf import find_parts

    return any(tensor.name == "output.weight" for part in find_parts(path) for tensor in GGUFReader(part).tensors)


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
    bits = _bits(values)
    values = values.get("text_config") or values
    family = str(values.get("model_type", "llama"))
    heads, hidden = _required(values, "heads"), _required(values, "hidden")
    return ModelDimensions(
        layers=_required(values, "layers"),
        hidden=hidden,
        intermediate=_intermediate(values, family, hidden),
        heads=heads,
        kv_heads=read_kv_heads(values, heads),
        vocabulary=int(values["vocab_size"]),
        head_size=int(values.get("head_dim") or hidden // heads),
        tied=bool(values.get("tie_word_embeddings", family in TIED)),
        family=family,
        positions=positions(values),
        bits=bits,
    )


def _required(values: Mapping[str, Any], name: str) -> int:
    """A size. Raises KeyError if it is not stated."""
    size = read_size(values, name)
    if size is None:
        raise KeyError(SPELLINGS[name][0])
    return size


def _intermediate(values: Mapping[str, Any], family: str, hidden: int) -> int:
    """The intermediate size; families unlike Llama need not state it. Raises KeyError if it is not known."""
    size = read_size(values, "intermediate")
    if size is None and family not in LAYOUTS:
        raise KeyError("intermediate_size")
    return size or int(values.get("expansion_ratio") or 4) * hidden


def _bits(values: Mapping[str, Any]) -> int | None:
    """Bits per weight of a quantised model; None if it is not quantised, or its config.json does not state them."""
    quantised = values.get("quantization_config") or {}
    if quantised.get("load_in_4bit") or quantised.get("quant_method") == "mxfp4":
        return 4
    if quantised.get("load_in_8bit") or "fp8" in str(quantised.get("quant_method")):
        return 8
    return int(quantised["bits"]) if quantised.get("bits") else None
