"""Models without weights, on the meta device."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)


def skeleton(model_config: PreTrainedConfig, **options: Any) -> PreTrainedModel | None:
    """The model without weights; None if its own code needs them.

    Args:
        model_config: The model's config.json.
        options: More options of ``from_config``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(model_config, **options)
    except Exception as error:  # a model's own code may raise anything
        logger.debug("%s cannot be made without weights: %s", model_config.model_type, error)
        return None
    return model
