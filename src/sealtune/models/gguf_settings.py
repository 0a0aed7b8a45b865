"""Settings of a GGUF file that transformers does not read, or replaces with defaults of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sealtune.core.errors import UserError
from sealtune.models.gguf_rope import head_width, set_rope

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)

EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
REQUIRED = ("context_length", "embedding_length", "block_count", "attention.head_count", "feed_forward_length")
NOT_IN = {"mamba": ("attention.head_count", "feed_forward_length"), "qwen35moe": ("feed_forward_length",)}
"""What files of an architecture need not have."""
FIELDS = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.sliding_window": ("sliding_window",),
    "attention.scale": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "logit_scale": ("logit_scale",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
}
"""A setting's name in GGUF, and the names that families of transformers have for it."""
READ = ("vocab_size", "attention.key_length", "rope.dimension_count", "rope.freq_base", "rope.freq_base_swa")
MULTIPLIERS = ("attention.causal", "expert_weights_scale", "logit_scale", "embedding_scale", "residual_scale")
"""Settings that change nothing where they are 1 or true."""
_TOLERANCE = 1e-6
GATING = {"qwen2moe": 1, "qwen3moe": 1, "gpt-oss": 3}
"""How experts are weighted, as a number of GGUF: the only way that transformers has for the architecture."""
BLOCKS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""Gemma's largest models scale attention by the width per head; the file does not say so, llama.cpp knows it."""


def read_settings(reader: Any) -> tuple[str, dict[str, Any]]:
    """The architecture of a file, and the settings of that architecture without its name before theirs."""
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    family = str(fields["general.architecture"])
    return family, {name[len(family) + 1 :]: v for name, v in fields.items() if name.startswith(f"{family}.")}


def require_settings(family: str, settings: Mapping[str, Any], name: str) -> None:
    """Raise UserError if a setting is missing for which transformers would take the one of another model."""
    missing = [key for key in REQUIRED if key not in settings and key not in NOT_IN.get(family, ())]
    if not any(key in settings for key in EPSILONS):
        missing.append(EPSILONS[0])
    if missing:
        raise UserError(
            f"{name} lacks the setting {family}.{missing[0]}, which every GGUF model needs; convert it again"
        )
    if settings.get("attention.causal") is False:
        raise UserError(f"{name} is an encoder ({family}.attention.causal is false), not a causal language model")


def missing_defaults(family: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """Settings, with the architecture before their names, to add to a file before transformers reads it.

    Without the number of key and value heads, which is that of all heads by default, it leaves Llama's permuted.
    """
    key = "attention.head_count_kv"
    heads = settings.get("attention.head_count")
    return {f"{family}.{key}": heads} if family == "llama" and key not in settings and isinstance(heads, int) else {}


def apply_settings(
    config: PreTrainedConfig,
    family: str,
    settings: Mapping[str, Any],
    rope_tensors: Mapping[str, Any],
    name: str,
    *,
    scaling_only: bool = False,
) -> None:
    """Put a file's settings into the config that transformers reads from it, and log what has no place there.

    Args:
        config: Changed in place.
        family: The architecture.
        settings: Its settings.
        rope_tensors: The tensors that scale rotary embeddings.
        name: The file.
        scaling_only: transformers reads every setting of this architecture but the scaling of rotary embeddings.

    Raises:
        UserError: The rotary embeddings cannot be stated exactly.
    """
    if scaling_only:
        return set_rope(config, settings, rope_tensors, name, scaling_only=True)
    fields = config.to_dict()
    placed = [key for key in FIELDS if key in settings and _place(config, fields, key, settings[key])]
    if "num_key_value_heads" in fields and "attention.head_count_kv" not in settings:
        config.num_key_value_heads = settings["attention.head_count"]
    placed += _place_pattern(config, fields, settings)
    if family not in ("gemma4", "deci"):  # their heads differ between layers, which transformers knows
        if "head_dim" in fields and (width := head_width(settings)):
            config.head_dim = width
        set_rope(config, settings, rope_tensors, name)
    if family in BLOCKS_OF_27B:
        largest = settings["block_count"] == BLOCKS_OF_27B[family]
        width = settings["embedding_length"] // settings["attention.head_count"] if largest else config.head_dim
        config.query_pre_attn_scalar = width
    for key, value in settings.items():
        if key not in placed and not _is_read(family, key, value, settings):
            logger.warning("%s: %s.%s = %s has no place in transformers; it is ignored", name, family, key, value)
    return None


def _place(config: PreTrainedConfig, fields: Mapping[str, Any], key: str, value: Any) -> bool:
    """Set the config's field for a setting, if its family has one, and the value is one number."""
    field = next((field for field in FIELDS[key] if field in fields), None)
    if field is None or isinstance(value, list):
        return False
    setattr(config, field, value)
    return True


def _place_pattern(config: PreTrainedConfig, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Set which layers have a sliding window, where a file lists them."""
    key = "attention.sliding_window_pattern"
    pattern = settings.get(key)
    if not isinstance(pattern, list) or "sliding_attention" not in (fields.get("layer_types") or ()):
        return []
    config.layer_types = ["sliding_attention" if slides else "full_attention" for slides in pattern]
    return [key]


def _is_read(family: str, key: str, value: Any, settings: Mapping[str, Any]) -> bool:
    """Whether transformers or ``set_rope`` reads a setting, or its value changes nothing."""
    if key in READ or key in _mapped(family) or key.startswith("rope.scal") or not value:
        return True
    width = head_width(settings) or 1
    if key == "attention.sliding_window":
        return bool(value >= settings["context_length"])
    if key == "attention.scale":
        return bool(abs(value - width**-0.5) < _TOLERANCE)
    neutral = {"attention.value_length": width, "expert_gating_func": GATING.get(family)}
    return bool(value == neutral.get(key, 1 if key in MULTIPLIERS else None))


def _mapped(family: str) -> set[str]:
    """The settings that transformers reads for an architecture."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    names = {family, family.replace("moe", "_moe"), family.replace("-", "_")}
    return {key for own in names for key, field in GGUF_CONFIG_MAPPING.get(own, {}).items() if field}
