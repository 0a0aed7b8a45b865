"""The config.json of the model that a config names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sealtune.core.config import Config
from sealtune.models.adapter_chain import adapter_of, base_of
from sealtune.models.load import _from_pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def load_model_config(config: Config) -> PreTrainedConfig:
    """The model's config.json, of any source that ``load_model`` reads; of an adapter, its base's.

    Raises:
        UserError: It cannot be loaded, or is not that of a causal language model.
    """
    from transformers import AutoConfig

    if (adapter := adapter_of(config)) is not None:
        loaded = load_model_config(base_of(config, adapter))
        loaded.__dict__.pop("quantization_config", None)  # the adapter is merged into weights that are not quantised
        return loaded
    own: PreTrainedConfig = _from_pretrained(AutoConfig, config)
    return own
