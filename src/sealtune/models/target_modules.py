"""Which layers get an adapter: those of the settings, or those that are usual for the model's family."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from sealtune.core.config import LoraBlock, RankConfig
from sealtune.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"
"""Every linear layer of the blocks, for models of any family."""
MAX_NAMED = 12
"""Layers that a message lists."""

Targets = list[str] | str
"""Names of layers; one text is a pattern for the whole name, or ``all-linear``. Both as PEFT reads them."""


def target_modules(model: PreTrainedModel, settings: LoraBlock) -> Targets:
    """The layers of this model that get an adapter.

    Raises:
        UserError: The settings name layers, and the model has none of these names.
    """
    names = [name for name, _ in model.named_modules()]
    targets = choose_targets(settings, names, str(model.config.model_type))
    if targets is None:
        raise UserError(
            f"{_block(settings)}.lora_target_modules: {', '.join(settings.lora_target_modules)} name no layer of "
            f"{type(model).__name__}; its linear layers: {_listed(linear_names(model))}; or set it to {ALL_LINEAR}"
        )
    return targets


def choose_targets(settings: LoraBlock, names: Collection[str], family: str) -> Targets | None:
    """The layers to adapt, of a model with layers of these names; None if the settings name none of them.

    Names that the user has set are taken as they are. The defaults are for models built like Llama; other families
    have layers of other names, and PEFT knows the usual ones.

    Args:
        names: The full names of the model's layers.
        family: The ``model_type`` of the model's config.
    """
    chosen = settings.lora_target_modules
    if isinstance(chosen, str) or any_matches(chosen, names):
        return chosen
    if "lora_target_modules" in settings.model_fields_set:
        return None
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    usual: Targets = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(family, [])
    return usual if any_matches(usual, names) else ALL_LINEAR


def log_targets(model: PreTrainedModel, settings: LoraBlock) -> None:
    """Say which layers are adapted if they are not those of the settings. Raises UserError like ``target_modules``."""
    targets = target_modules(model, settings)
    if targets == settings.lora_target_modules:
        names = [name for name, _ in model.named_modules()]
        for target in [] if isinstance(targets, str) else targets:
            if not any_matches([target], names):
                logger.warning("%s.lora_target_modules: %s names no layer and is left out", _block(settings), target)
        return
    if targets == ALL_LINEAR:
        logger.info("%s: LoRA on all linear layers: %s", _block(settings), _listed(linear_names(model)))
    else:
        listed = targets if isinstance(targets, str) else ", ".join(targets)
        logger.info("%s: LoRA on %s, as PEFT does for %s", _block(settings), listed, model.config.model_type)


def any_matches(targets: Targets, names: Iterable[str]) -> bool:
    """Whether any of these layers is a target, by PEFT's rule."""
    return any(matches(targets, name) for name in names)


def matches(targets: Targets, name: str) -> bool:
    """Whether the layer of this full name is a target: its name, or the end of it, is in the list."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(f".{name}".endswith(f".{target}") for target in targets)


def linear_names(model: PreTrainedModel) -> list[str]:
    """The names of the model's linear layers, without those of their parents and without the output layer."""
    output = model.get_output_embeddings()
    layers = (name for name, module in model.named_modules() if is_linear(module) and module is not output)
    return list(dict.fromkeys(name.rpartition(".")[2] for name in layers))


def has_transposed(model: PreTrainedModel, targets: Targets) -> bool:
    """Whether any target is GPT-2's linear layer, which PEFT needs to know."""
    transposed = (name for name, module in model.named_modules() if is_transposed(module))
    return any(targets == ALL_LINEAR or matches(targets, name) for name in transposed)


def is_linear(module: nn.Module) -> bool:
    """Whether this is a linear layer, or the transposed one of GPT-2 and its relatives."""
    from torch import nn

    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer, whose weight is (inputs, outputs)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _block(settings: LoraBlock) -> str:
    return "rank" if isinstance(settings, RankConfig) else "tune"


def _listed(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
