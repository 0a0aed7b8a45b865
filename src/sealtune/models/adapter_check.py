"""What can be known of an adapter before its base's weights are loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sealtune.core.config import Config
from sealtune.core.errors import UserError
from sealtune.models.adapter_chain import Chain, chain_of
from sealtune.models.adapter_folder import apply_without_weights
from sealtune.models.combined_adapter import find_obstacle
from sealtune.models.model_config import load_model_config
from sealtune.models.quantised import check_quantised
from sealtune.models.skeleton import skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def check_adapter(config: Config, *, ranks: bool, tunes: bool) -> None:
    """Check the adapter that a run loads as its model; of a full model nothing is checked here.

    Args:
        config: The run's config.
        ranks: Rows will be ranked.
        tunes: The model will be tuned.

    Raises:
        UserError: PEFT does not know all its settings, its tensors do not fit its base, or the run ends with an adapter
            that cannot contain this one.
    """
    if ranks and config.ranking is not config:
        check_adapter(config.ranking, ranks=False, tunes=False)
    chain = chain_of(config)
    if not chain.adapters:
        return
    base_config = load_model_config(chain.base)
    _require_fit(skeleton(base_config, trust_remote_code=config.trust_remote_code), chain)
    if tunes and config.tune.use_peft and not config.tune.merge:
        _require_combinable(config, chain)
    if config.load_in_4bit:
        check_quantised(chain.base, base_config, ranks=ranks, tunes=tunes)


def _require_fit(model: PreTrainedModel | None, chain: Chain) -> None:
    """Raise UserError that names tensors that do not fit. Some kinds of adapter can be made only from real weights."""
    for adapter in reversed(chain.adapters):
        if model is None:
            return
        try:
            model = apply_without_weights(model, adapter).unload()
        except UserError as error:
            if "meta tensor" not in str(error.__cause__):
                raise
            logger.debug("%s is checked when it is loaded: %s", adapter, error)
            return


def _require_combinable(config: Config, chain: Chain) -> None:
    for adapter in chain.adapters:
        if (obstacle := find_obstacle(adapter)) is not None:
            first = "merge it" if config.load_in_4bit else "set tune.merge to true, or merge it"
            raise UserError(
                f"tune: {adapter} is an adapter with {obstacle}, so the tuned LoRA cannot be combined with it into one "
                f"adapter; {first} into its base first and give that model"
            )
