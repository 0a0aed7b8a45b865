"""Whether a config.json is that of a causal language model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sealtune.core.errors import UserError
from sealtune.core.sanitize import excerpt

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_SHAPES = re.compile(r"must match|cannot be multiplied|is invalid for input of size|size mismatch|same number of dimen")
"""What torch says where sizes do not fit each other, with or without weights."""


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


def require_hidden_states(model: PreTrainedModel, name: str) -> None:
    """Raise UserError if the model is not a body that gives hidden states, with an output layer on them.

    Args:
        model: The model, with or without weights.
        name: How the user names the model.
    """
    problem = _missing_part(model)
    if problem:
        raise UserError(
            f"model_name_or_path: {name} is a {type(model).__name__}, which {problem}; correct its config.json, or "
            "give a model of another family, such as Llama, Qwen or GPT-2"
        )


def _missing_part(model: PreTrainedModel) -> str | None:
    head = model.get_output_embeddings()
    if head is None or not hasattr(head, "weight"):
        return "has no output layer on its hidden states"
    if model.base_model is model:
        return "has no body apart from its output layer"
    result = _run_body(model.base_model)
    if isinstance(result, RuntimeError):
        return f"cannot run with the sizes in its config.json ({excerpt(result, 200)})"
    return None if result is None or hasattr(result, "last_hidden_state") else "gives no last_hidden_state"


def _run_body(body: Any) -> Any:
    """The body's result for two tokens, computed without weights; an error of shapes; None if it needs weights."""
    import torch

    tokens = torch.ones((1, 2), dtype=torch.long, device="meta")
    mask = torch.zeros((1, 1, 2, 2), device="meta")  # a finished mask, where making one looks at values
    for options in ({}, {"attention_mask": mask}):
        try:
            with torch.no_grad():
                return body(input_ids=tokens, use_cache=False, **options)
        except RuntimeError as error:
            if _SHAPES.search(str(error)):
                return error
        except Exception:  # code that looks at values fails without them; loading the model checks it again
            return None
    return None
