"""Whether a config.json is that of a causal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sealtune.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def require_decoder(model_config: PreTrainedConfig, name: str) -> None:
    """Raise UserError if this is an encoder, or an encoder with a decoder, or no language model.

    Args:
        model_config: The model's config.json.
        name: How the user names the model.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    family = model_config.model_type
    if "AutoModelForCausalLM" in (getattr(model_config, "auto_map", None) or {}):  # the model's own code
        return
    if getattr(model_config, "is_encoder_decoder", False):
        kind = "an encoder with a decoder"
    elif family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        kind = "of a family without one"
    elif family in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(model_config, "is_decoder", False):
        kind = "an encoder"
    else:
        return
    raise UserError(
        f"model_name_or_path: {name} is no causal language model: its config.json says {family}, {kind}; "
        "give a model such as Llama, Qwen or GPT-2"
    )
