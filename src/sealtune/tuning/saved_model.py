"""The tuned model on disk: saved, merged, and loaded again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sealtune.core.config import Config
from sealtune.models import sharding
from sealtune.models.adapter_chain import adapter_of, chain_of, combinable
from sealtune.models.adapter_folder import adapter_shapes, apply_adapter, is_adapter
from sealtune.models.combined_adapter import combine
from sealtune.models.load import compute_dtype, load_model, public_name, resolve_source
from sealtune.models.merging import merge, merge_output_layer
from sealtune.models.model_config import load_model_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["is_adapter", "load_tuned", "save", "stands_on"]

logger = logging.getLogger(__name__)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Config, folder: Path) -> None:
    """Write the tokenizer and the adapter, or the full model if it was tuned in full or ``tune.merge`` is set.

    If the model was an adapter's folder, the saved adapter contains both, on the base of the first.
    """
    tokenizer.save_pretrained(str(folder))
    model.config.use_cache = True  # off only while training
    if config.tune.use_peft and not config.tune.merge:
        _save_adapter(model, config, folder)
        return
    if config.tune.use_peft:
        # With ZeRO-3, a forward pass in the main process alone would wait for the others.
        model = model.merge_and_unload() if sharding.uses_zero3() else merge(model, "tune.merge")
    _restore_router(model, config)
    model.to(compute_dtype(config)).save_pretrained(str(folder))


def _restore_router(model: PreTrainedModel, config: Config) -> None:
    """Set what training changes in the config of a mixture of experts back to what the model came with."""
    own, original = model.config.get_text_config(), load_model_config(config).get_text_config()
    for name in ("output_router_logits", "router_aux_loss_coef"):
        if hasattr(original, name):
            setattr(own, name, getattr(original, name))


def _save_adapter(model: PreTrainedModel, config: Config, folder: Path) -> None:
    first, base = adapter_of(config), stands_on(config)
    name = public_name(base)
    if first is not None and base is config:
        name = resolve_source(config)
        logger.warning(
            "tune: the adapter stands on %s merged into its base, saved in %s; to share it, set tune.merge to true",
            *(config.model_name_or_path, name),
        )
    for adapter in model.peft_config.values():
        adapter.base_model_name_or_path, adapter.revision = name, base.model_revision
    model.save_pretrained(str(folder), save_embedding_layers=False)
    if first is not None and base is not config:
        modules = [module for module, _ in model.get_base_model().named_modules()]
        for below in chain_of(config).adapters:
            combine(below, folder, modules)
        logger.info("tune: the adapter contains %s, so its base is %s", config.model_name_or_path, name)


def stands_on(config: Config) -> Config:
    """The config of the model that the saved adapter stands on.

    It is the run's own model; but for an adapter's folder its base, if the adapters can be combined into one.
    """
    chain = combinable(config)
    return config if chain is None else chain.base


def load_tuned(base: PreTrainedModel | None, folder: Path, config: Config) -> PreTrainedModel:
    """The tuned model: the adapter in ``folder`` on its base, or the full model in ``folder``.

    Args:
        base: The run's model, for an adapter. It is changed, and cannot be used any more.
        folder: The folder of the tuned model.
        config: The config of the run.

    Raises:
        UserError: The folder cannot be loaded.
    """
    if not is_adapter(folder):
        return load_model(config.model_copy(update={"model_name_or_path": str(folder), "model_revision": None}))
    adapter_shapes(folder)  # refuses a damaged adapter before a model is loaded
    below = stands_on(config)
    if below is not config:  # the adapter contains the one that is merged into the run's model
        if base is not None and not config.load_in_4bit:
            base.to("meta")  # frees its memory, while the caller still holds it
        base = load_model(below)
    assert base is not None
    model: PreTrainedModel = apply_adapter(base, folder)
    merge_output_layer(model)
    return model
