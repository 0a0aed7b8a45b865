"""What can be known of a model before its weights are loaded: its layers, and what its quantisation forbids."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sealtune.core.config import Config
from sealtune.models.model_config import load_model_config
from sealtune.models.quantised import check_quantised
from sealtune.models.target_modules import ALL_LINEAR, target_modules

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)


def check_models(config: Config, *, ranks: bool, tunes: bool) -> None:
    """Check the models that a run loads, so that an error shows before hours of work.

    Args:
        config: The run's config.
        ranks: Rows will be ranked.
        tunes: The model will be tuned.

    Raises:
        UserError: A package is missing, or a setting cannot work with the model.
    """
    one_model = config.ranking is config
    if tunes or (ranks and one_model):
        _check(config, ranks=ranks and one_model, tunes=tunes)
    if ranks and not one_model:
        _check(config.ranking, ranks=True, tunes=False)


def _check(config: Config, *, ranks: bool, tunes: bool) -> None:
    model_config = load_model_config(config)
    check_quantised(config, model_config, ranks=ranks, tunes=tunes)
    blocks = [block for block, used in ((config.rank, ranks), (config.tune, tunes)) if used and block.use_peft]
    if all(block.lora_target_modules == ALL_LINEAR for block in blocks):
        return
    if (model := skeleton(model_config, trust_remote_code=config.trust_remote_code)) is not None:
        for block in blocks:
            target_modules(model, block)


def skeleton(model_config: PreTrainedConfig, **options: Any) -> PreTrainedModel | None:
    """The model without weights; None if its code needs them, so that it can be checked only when it is loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(model_config, **options)
    except Exception as error:  # a model's own code may raise anything; loading it will say what is wrong
        logger.debug("%s cannot be made without weights: %s", model_config.model_type, error)
        return None
    return model
