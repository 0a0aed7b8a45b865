"""What can be known of a model before its weights are loaded: its tensors, layers and what its quantisation forbids."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.models.adapter_chain import chain_of
from sealtune.models.adapter_check import check_adapter
from sealtune.models.decoder import require_hidden_states
from sealtune.models.model_config import load_model_config
from sealtune.models.pretrained import load_checked
from sealtune.models.quantised import check_quantised, quantisation
from sealtune.models.skeleton import skeleton
from sealtune.models.sources import resolve_model
from sealtune.models.target_modules import ALL_LINEAR, target_modules
from sealtune.models.weight_files import require_float_weights, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
    check_adapter(config, ranks=ranks, tunes=tunes)


def _check(config: Config, *, ranks: bool, tunes: bool) -> None:
    model_config = load_model_config(config)
    check_quantised(config, model_config, ranks=ranks, tunes=tunes)
    check_weights(config)
    blocks = [block for block, used in ((config.rank, ranks), (config.tune, tunes)) if used and block.use_peft]
    if all(block.lora_target_modules == ALL_LINEAR for block in blocks):
        return
    if (model := skeleton(model_config, trust_remote_code=config.trust_remote_code)) is not None:
        for block in blocks:
            target_modules(model, block)


def check_weights(config: Config) -> None:
    """Check that the weights in a folder fit the model's class, by the names and shapes in their headers.

    An adapter's base is checked in its place. Weights on the hub are checked when they are loaded.

    Raises:
        UserError: There are no weights that can be loaded, or tensors are missing, left over, or of another shape.
    """
    config = chain_of(config).base
    folder = Path(resolve_model(config.model_name_or_path))
    if not folder.is_dir():
        return
    weight_files(folder)
    if quantisation(load_model_config(config)) is not None:  # its method renames and packs them, on the device alone
        return
    require_float_weights(folder)
    if (model := _load_without_weights(config, folder)) is not None:
        require_hidden_states(model, config.model_name_or_path)


def _load_without_weights(config: Config, folder: Path) -> PreTrainedModel | None:
    """The model as transformers loads it, with its renaming of tensors, but without reading their content.

    Returns:
        The model on the meta device; None if its own code needs the weights.

    Raises:
        UserError: A tensor is missing, left over, or of another shape.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):  # a run draws the same numbers, checked or not
        try:
            model: PreTrainedModel = load_checked(AutoModelForCausalLM, str(folder), config, device_map="meta")
        except UserError as error:
            if config.trust_remote_code and error.__cause__ is not None:
                logger.debug("%s cannot be made without weights: %s", folder, error.__cause__)
                return None
            raise
    return model
